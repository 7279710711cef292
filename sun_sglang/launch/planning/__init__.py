"""Turn a topology into the plan of a launch: which workers run, with which flags and GPUs. Starts nothing.

Start with `planner.py`. `preflight.py` checks a topology and resolves its pools, `pools.py` holds a resolved pool, and
`plan.py` the result. Folders: `hardware/` (what the machine has), `worker_kinds/` (SGLang, emulated), `decode_cache/`
(which cache a decode pool gets). Addresses, processes and logs belong to `launch/places/`.
"""
