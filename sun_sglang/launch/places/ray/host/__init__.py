"""What runs on a worker's machine: the actor that starts the worker, its guard, and the ports that it takes.

Open `worker_host.py` first. Not here: calls of the actor from the launcher's machine (`slot.py`, `running.py`).
"""
