"""Adapters on running workers: load them, show that they are in effect, unload them. Background loops and their I/O.

Belongs here: requests about adapters to workers, and when they are sent. Does not belong here: the rules for an
adapter's effect (`router/adapters/`), and the effects of a proof (`workers/adapter_table.py`). Open `adapter_prover.py`
first.
"""
