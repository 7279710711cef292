"""The launcher's own machine as a place: workers are its child processes and listen on its loopback address.

Open `place.py` first. Here: ports, start methods (a fork server, or one process each), process groups and GPU memory of
ended workers, and the start of the router. Not here: restarts (`launch/supervision`) and the choice of GPUs
(`launch/planning`).
"""
