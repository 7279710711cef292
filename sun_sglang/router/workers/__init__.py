"""Workers: which workers exist, in which state, and which pairs of them may serve a task. State and rules.

Belongs here: the registry and the objects in it, changes of the fleet while the router runs, and the load table that
the router's processes share. Does not belong here: requests to workers (`health/` probes, `dispatch/` serves), and the
selection of a pair (`scheduling/`). Open `registry.py` first, then `worker_paths.py`;
`weights_table.py` adds the own weights of tasks.
"""
