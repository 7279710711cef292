"""The kinds of workers that a pool may have: one class a kind, all with the interface of `worker_kind.py`.

`README.md` describes what a kind decides and how to add one. Start with `worker_kind.py`. How a worker becomes a
process belongs to `launch/places/`.
"""
