"""When requests are sent, and when a run ends: open loop, closed loop and sessions around one measured window.

`run.py` runs a loop through warm-up and window and returns the records; open it first. `open_loop.py`,
`closed_loop.py` and `session_loop.py` each send in one way. Each takes a function that sends one request and a clock,
so that tests need neither sockets nor time. Not here: what is sent (`workload/`), how (`client/`).
"""
