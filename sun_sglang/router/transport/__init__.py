"""Sockets to workers. A *leg* is one request to one worker; a client's request has two.

Open `worker_client.py` first: it sends legs and aborts. Below it are `leg_exchange.py` (one request and its response),
`connection_pool.py` (idle connections) and `connection.py` (one connection). `messages.py` and `errors.py` hold what
the layers above receive. `http_session.py` serves everything that is no leg: cards, load reports, token counts.

No decision belongs here: nothing in this package retries, chooses a worker or changes a worker's state.
"""
