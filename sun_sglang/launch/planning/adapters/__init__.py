"""The LoRA adapters of a topology's tasks: what a prefill pool needs to serve them, and whether they fit it.

    task_adapters  reads them, and compares each with its task's two pools
    lora_flags     the SGLang flags of a pool with adapters

Does not belong here: what an adapter's directory holds (`checkpoint/adapter/`), and the loading of adapters into
workers, which the router does. Open `task_adapters.py` first.
"""
