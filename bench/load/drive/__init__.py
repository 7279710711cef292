"""When requests are sent, and when a run ends: an open or a closed loop around one measured window.

`run.py` takes a loop through warm-up and window; open it first. `units.py` makes what a loop runs, a request or a
session of several, `open_loop.py` and `closed_loop.py` run them. Each takes a function that sends one request and a
clock, so that tests need neither sockets nor time. `progress.py` counts while a run goes on, and `stop.py` ends it
early. Not here: what is sent (`workload/`), how (`client/`).
"""
