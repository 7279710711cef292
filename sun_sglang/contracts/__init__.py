"""What two processes, or two packages, agree on: one definition of each, read and written by both sides.

A file here imports nothing of `router`, `launch`, `worker` or `train`.
"""
