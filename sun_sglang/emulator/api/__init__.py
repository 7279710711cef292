"""The HTTP server of an emulated worker: routes, handlers, and the replies that they send.

Does not belong here: checks of a request (`emulator/protocol/`), and its work (`emulator/engine/`). Open `server.py`
first.
"""
