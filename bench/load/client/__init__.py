"""One streamed request: sent, read and timed; and the client's own load.

`record.py` is the result, all that the metrics know of a request; open it first. `endpoint.py` states where requests go
and what they contain, `event_reader.py` counts the tokens of a stream (pure), `sender.py` does the I/O, `clock.py` is
the clock of a run, and `load_monitor.py` measures whether this process kept up. Not here: when a request is sent
(`drive/`), and numbers over many requests (`metrics/`).
"""
