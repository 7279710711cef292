"""Models of a worker's work without a clock: costs, batching and the prefix cache.

    cost_model          seconds of a decode step, of a prefill batch and of a KV transfer
    prefill_scheduler   batches of a prefill worker, and its changes of modules
    prompt_queues       the prompts that wait for one
    decode_scheduler    queues and batch of a decode worker
    decode_runs         the same worker in closed form, for simulations of many workers
    adapter_slots       the LoRA adapters that one batch can use
    prefix_cache        the prefixes of a worker's earlier prompts

Nothing here reads a clock, sleeps or opens a socket. A scheduler is a state machine: the caller passes the time to
`step(now)` and calls again at `due`. The emulated worker (`sun_sglang/emulator/`) passes real time, and a simulator
passes virtual time. Open `cost_model.py` first.
"""
