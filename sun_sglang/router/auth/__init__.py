"""Access control: API keys, access rules, TLS, and the guard against foreign web pages.

Belongs here: deciding whether a request may pass, from its key, its route's rule and its headers. Does not belong here:
which rule a route has (`api/routes.py`, in the route's row). First file: `access.py`; the keys and their rates are in
`api_keys.py`.
"""
