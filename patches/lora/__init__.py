"""Hooks on SGLang's LoRA adapters.

    lora_host_memory  loads them without pinned memory where no GPU exists
    verified_load     refuses an adapter whose content is not the one that its name states
    cold_loads        counts and times the copies of adapters into slots
    engine_names      the names of SGLang that they use

Belongs here: a change to how a worker loads, keeps and applies adapters. Does not belong here: what an adapter's
directory holds (`sun_sglang/checkpoint/adapter/`), and the page that reports the counts
(`sun_sglang/worker/adapters_page.py`). Open `verified_load.py` first.
"""
