"""Hooks on SGLang for modules that take turns on a prefill worker.

    turns         builds each batch of one module's requests, and changes the weights between two batches
    held          lets a request wait until its module is in host memory, and refuses one that the worker does not have
    in_place      replaces the weights of the running model by those of another module
    mapped        the tensors of a module in shared memory
    shared_files  what the HTTP process and the schedulers tell each other
    engine_names  the names of SGLang that they use

Belongs here: code about modules in SGLang's processes. Does not belong here: which module runs next (`module_turns/`),
copies in host memory and the routes of the HTTP process (`sun_sglang/worker/modules/`). Open `turns.py` first.
"""
