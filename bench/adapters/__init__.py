"""Tasks that are LoRA adapters: the cost of many of them, and SUN beside one server with all adapters in both phases.

    served            prepares systems with 8 to 128 random adapters of a real model, and runs `sun bench --compare`
    random_adapters   adapters of a real base, for timing only
    system_files      the compared systems
    emulated          400 tasks on emulated workers: seconds to ready, memory, `/tasks`, a task added under traffic

Does not belong here: a load generator (`bench/load/`, `bench/serving/`). Open `served.py` or `emulated.py` first.
"""
