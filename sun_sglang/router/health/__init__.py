"""Health: background loops that probe workers, prove paths, and detect what stands still.

Belongs here: code that asks workers for their state at an interval, and reports it to the registry. Does not belong
here: what follows from a state (`workers/registry.py`), and what a failed request tells about its workers
(`dispatch/`). Open `prober.py` first, then `path_prover.py`.
"""
