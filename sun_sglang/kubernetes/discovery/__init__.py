"""Discovery: the workers that the router uses are the pods with the deployment's labels.

    python -m sun_sglang.kubernetes.discovery --namespace NS --instance NAME --router URL --run-dir DIR

`pods.py` and `changes.py` are pure: what a pod is to the router, and which changes of the router's workers follow.
`watch.py` reads the API server, `reconciler.py` changes the router.

The changes go through the router's own API and not into its fleet file. The router is then the file's only writer: a
task that is added at the same time is kept, its lock stays its own, and a change that it refuses comes back with the
reason. It also shows which workers are still leaving, which the file does not.
"""
