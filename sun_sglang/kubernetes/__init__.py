"""A topology on Kubernetes: manifests (`export/`), workers found by label (`discovery/`), and what runs in pods.

Kubernetes starts, restarts and places the pods; the router decides which of them get requests. `export/` is pure. Only
`discovery/watch.py` talks to the API server, with the package of the extra `kubernetes`.
"""
