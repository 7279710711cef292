"""The HTTP server of an emulated worker: routes, handlers, and the replies that they send.

Checks of a request belong into `emulator/protocol/`, and its work into `emulator/engine/`. Open `server.py` first.
"""
