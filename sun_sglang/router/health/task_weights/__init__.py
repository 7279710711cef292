"""The own weights of tasks on running workers: give them, show that they are in effect, take them away. I/O in loops.

Belongs here: requests about the weights of tasks to workers, and when they are sent. Does not belong here: the rules
for an effect (`router/task_weights/`), and the effects of a proof (`workers/weights_table.py`). Open
`weights_prover.py` first; `clients/` has the requests of each kind, and `monitors/` reads where weights are.
"""
