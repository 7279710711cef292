"""HTTP: the router's endpoints, and the middlewares of every request.

Belongs here: the route table, preflights, expectations, middlewares and error responses. Does not belong here: how a
request for text is served (`serving`), and who may call what (`auth`).

- `endpoints/`: the handlers.
- `connections/`: the TCP connections of clients.
- `siblings/`: the other processes of the router.

To add an endpoint, write its handler in `endpoints/` and add a row to `route_table` in `routes.py`. The row states the
access rule and whether a foreign web page may cause the request. First file: `routes.py`; `middleware.py` is the only
place where an exception becomes a response.
"""
