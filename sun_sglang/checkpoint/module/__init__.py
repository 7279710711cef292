"""Checkpoints of modules that take turns on a prefill worker.

    read         what a directory holds
    fit          whether a module can take the place of a worker's model
    host_copies  verified copies in shared memory, one for all workers of the machine

Belongs here: code about a module's files. Does not belong here: which modules a worker has (`worker/modules/`), and
their weights in a running model (`patches/modules/`). Open `fit.py` first.
"""
