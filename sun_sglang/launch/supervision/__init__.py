"""Keep a deployment running at any place.

Open `supervisor.py` first: the whole deployment. `server_group.py` runs servers without a router, for benchmarks.
`supervised_process.py` keeps one process running, `readiness.py` decides when a launch has failed, `log_end.py` reads
the last lines of a process's output. Not here: code that starts, signals or finds a process (`launch/places`).
"""
