"""The kinds of workers that a pool may have: one class a kind, all with the interface of `protocol.py`.

`README.md` describes what a kind decides and how to add one. Start with `protocol.py`. How a worker becomes a process
belongs to `launch/places/`.
"""
