"""The modules of a topology's tasks that take turns on a prefill pool.

    task_modules  reads them, and compares each with its task's two pools
    limits        the memory and the flags of a pool whose workers change between modules

Does not belong here: the giving of modules to workers, which the router does, and the change itself
(`patches/modules/`). Open `task_modules.py` first.
"""
