"""Scheduling: when an answer may go to workers, and to which pair of workers. Pure: no sockets, no clock.

Belongs here: the fair queue, routing policies, and estimates of a request's work. Does not belong here: futures and
deadlines of waiting requests (`serving/admission/`), and which pairs are proven (`workers/worker_paths.py`). Open
`README.md` first, then `pair_selector.py` and `fair_queue.py`.
"""
