"""The kinds of workers that a pool may have: one class for each kind, all with the interface of `worker_kind.py`.

`README.md` describes what a kind decides and how to add one. Does not belong here: the start of a worker
(`launch/places/`), and flags that all kinds share (`../flags/engine_defaults.py`). Open `worker_kind.py` first.
"""
