"""The TCP connections of clients: how many, how long, and how fast their clients read.

Belongs here: what bounds a connection as such. HTTP is aiohttp's, and requests are the rest of `api`. First file:
`connection_manager.py` accepts connections and ends those that exceed a deadline; `client_connection.py` is one of
them, and `client_handler.py` its HTTP; `request_meter.py` finds headers in its bytes and measures them;
`slow_readers.py` disconnects clients that do not read their responses.
"""
