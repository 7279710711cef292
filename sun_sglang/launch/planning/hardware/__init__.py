"""Detect the resources of a machine: cores, memory, GPUs, RDMA devices and transfer packages.

Belongs here: code that reads the system without torch and without a CUDA context. Does not belong here: the assignment
of GPUs to workers (`../gpu_assignment.py`). Open `machine.py` first.
"""
