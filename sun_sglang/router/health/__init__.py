"""Health: background loops that probe workers, prove paths, and detect workers and answers without progress.

Belongs here: code that reads the state of workers at an interval, and reports it to the registry. Does not belong
here: the effects of a state (`workers/registry.py`), and of a failed request (`dispatch/`). Open `prober.py` first,
then `path_prover.py`; `task_weights/` does the same for the own weights of tasks.
"""
