"""Programs of the pods: the worker's start, probe and drain, and the files of the router's pod.

Each is one module with few imports: a probe starts it every few seconds.
"""
