"""Turn a topology into the plan of a launch: which workers run, with which flags and GPUs. Starts nothing.

Open `planner.py` first. `preflight.py` checks a topology and resolves its pools, `pools.py` holds a resolved pool, and
`plan.py` the result. `servers.py` plans servers that belong to no topology. Folders: `flags/` (SGLang's flags),
`hardware/` (what the machine has), `worker_kinds/` (SGLang, emulated), `decode_cache/` (which cache a decode pool
gets), `adapters/` (LoRA adapters of tasks). Does not belong here: addresses, processes and logs (`launch/places/`), and
restarts (`launch/supervision/`).
"""
