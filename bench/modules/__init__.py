"""Full modules that take turns on prefill workers.

    turns              orders of modules on one worker, in virtual time (`policies`, `one_worker`)
    scale              100 modules on 4 to 16 prefill workers against a worker each, in virtual time
                       (`simulated_pools`, `simulated_workers`)
    emulated           points of `scale` in real time: emulated workers behind the real router
    smollm2            eight modules of SmolLM2 on real workers
    prefill_load       the requests of the simulations
    reported_changes   the changes that the workers of a deployment report

Does not belong here: a load generator (`bench/load/`). Open `turns.py` or `scale.py` first.
"""
