"""HTTP: the router's endpoints, and the middlewares of every request.

Belongs here: the route table, handlers that are thin (read, call a lower room, respond), pages, and the connections of
clients. Does not belong here: how a request for text is served (`serving`), and who may call what (`auth`).

To add an endpoint, write its handler beside similar ones (`info.py`: questions; `health.py`: probes; `admin.py`:
changes of the fleet; `generation.py`: requests for text) and add a row to `route_table` in `routes.py`. The row states
the access rule and whether a foreign web page may cause the request. First file: `routes.py`; `middleware.py` is the
only place where an exception becomes a response.
"""
