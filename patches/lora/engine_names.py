"""The names of SGLang that the hooks on LoRA adapters use; see `patches/engine_names.py`."""

from __future__ import annotations

from sun_sglang.patches.engine_use import Use

_SRT = "sglang.srt"
USES = (
    Use(
        f"{_SRT}.lora.lora_manager:LoRAManager",
        "patches/report_patches.py, patches/lora/cold_loads.py",
        attributes=("lora_refs", "max_lora_rank", "memory_pool", "target_modules"),
    ),
    Use(f"{_SRT}.lora.mem_pool:LoRAMemoryPool", "patches/lora/cold_loads.py", attributes=("uid_to_buffer_id",)),
    Use(f"{_SRT}.lora.lora_registry:LoRARef", "patches/lora/cold_loads.py", attributes=("lora_name",)),
    Use(f"{_SRT}.distributed.parallel_state:get_pp_group", "patches/lora/cold_loads.py", 0),
    Use(f"{_SRT}.distributed.parallel_state:get_tensor_model_parallel_rank", "patches/lora/cold_loads.py", 0),
    Use(f"{_SRT}.runtime_context:get_parallel", "patches/lora/cold_loads.py", 0),
    Use(
        f"{_SRT}.managers.io_struct:LoadLoRAAdapterReqInput",
        "patches/lora/verified_load.py",
        attributes=("lora_name", "lora_path"),
    ),
    Use(
        f"{_SRT}.managers.io_struct:LoadLoRAAdapterReqOutput",
        "patches/lora/verified_load.py",
        0,
        ("success", "error_message"),
    ),
    Use(f"{_SRT}.managers.io_struct:UnloadLoRAAdapterReqInput", "patches/lora/verified_load.py", 0, ("lora_name",)),
    Use(f"{_SRT}.managers.tokenizer_manager:TokenizerManager.unload_lora_adapter", "patches/lora/verified_load.py", 2),
    Use(
        f"{_SRT}.lora.lora_config:LoRAConfig",
        "sun_sglang/checkpoint/adapter/settings.py",
        keys=('["target_modules"]', '["r"]', '["lora_alpha"]', "use_dora"),
    ),
    Use(
        f"{_SRT}.lora.utils:get_normalized_target_modules",
        "sun_sglang/contracts/adapter_targets.py",
        keys=(
            *('"q_proj": "qkv_proj"', '"k_proj": "qkv_proj"', '"v_proj": "qkv_proj"'),
            *('"gate_proj": "gate_up_proj"', '"up_proj": "gate_up_proj"'),
        ),
    ),
)
