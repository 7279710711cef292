"""Adapters: what a prefill worker accepts, which adapters are proven on it, and which it holds. State and rules.

Belongs here: code about adapters on one worker that needs neither the registry nor a socket. Does not belong here: the
paths of a task with an adapter (`workers/adapter_table.py`), and requests to workers (`health/adapters/` loads adapters
and proves them). Open `proofs.py` first.
"""
