"""The load engine of `sun bench` itself: is what it measures true, and what does it cost?

    timed_server.py   a server whose times are known
    engines.py        the load engines: how to start each, and what it measured
    accuracy.py       the command: this project's client and AIPerf before that server

Belongs here: checks of the client. Does not belong here: the client (`bench/load/`). Open `accuracy.py` first.
"""
