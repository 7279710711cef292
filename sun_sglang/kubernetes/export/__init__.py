"""Manifests of a topology, for `kubectl apply`. Pure but for the checks of checkpoints that lie on this machine.

Open `manifests.py` first. `pool_pods.py` plans the pods with the launcher's own planner, `checks.py` refuses settings
that pods cannot have, and one module each makes the objects of workers, router and network.
"""
