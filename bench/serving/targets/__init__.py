"""What is measured. `target.py` is what a run needs to know of it; `running.py` finds a server that runs.

To add a kind of target, write a module that returns a `Target`.
"""
