"""Read a LoRA adapter's directory, and check that SGLang computes with it what PEFT computes.

    read           a directory -> `AdapterRef`
    settings       `adapter_config.json`, and the settings that SGLang ignores or refuses
    layers         the changed layers, from the header of the weights
    finite         whether all weights are finite
    base_fit       the comparison with the layers of a base

SGLang reads four settings of an adapter and ignores the others (`srt/lora/lora_config.py`); a weight that does not fit
ends its scheduler at the first batch (`srt/lora/mem_pool.py`). So whatever it would compute otherwise than PEFT is an
error here. Without torch. Open `read.py` first.
"""
