"""Give the weights of tasks to a worker, and take them away. I/O: one client for each kind of weights.

Belongs here: these requests and the meaning of their replies. Does not belong here: when they are sent
(`weights_prover.py`). Open `weights_client.py` first.
"""
