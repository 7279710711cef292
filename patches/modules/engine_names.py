"""The names of SGLang that the hooks on modules use; see `patches/engine_names.py`."""

from __future__ import annotations

from sun_sglang.patches.engine_use import Use

_SRT = "sglang.srt"
_IN_PLACE, _TURNS = "patches/modules/in_place.py", "patches/modules/turns.py"
_LOADER = f"{_SRT}.model_loader.loader:DefaultModelLoader"
USES = (
    Use(f"{_LOADER}.restore_weights_before_loading", _IN_PLACE, 2),
    Use(f"{_LOADER}.load_weights_and_postprocess", _IN_PLACE, 3),
    Use(f"{_SRT}.model_loader.utils:set_default_torch_dtype", _IN_PLACE, 1),
    Use(f"{_SRT}.model_executor.model_runner:ModelRunner", _IN_PLACE, attributes=("device", "model", "model_config")),
    Use(
        f"{_SRT}.managers.scheduler:Scheduler",
        _TURNS,
        attributes=("chunked_req", "tp_group", "tp_size", "tp_worker", "waiting_queue"),
    ),
    Use(f"{_SRT}.managers.schedule_batch:Req", _TURNS, attributes=("extra_key", "origin_input_ids")),
    Use(f"{_SRT}.managers.schedule_batch:ScheduleBatch", _TURNS, attributes=("extend_num_tokens", "reqs")),
    Use(f"{_SRT}.managers.schedule_batch:NextBatchPlan", _TURNS, attributes=("batch_to_run",)),
    Use(f"{_SRT}.distributed.parallel_state:GroupCoordinator", _TURNS, attributes=("cpu_group", "first_rank")),
    Use(
        f"{_SRT}.managers.tokenizer_manager:TokenizerManager",
        "patches/modules/held.py, sun_sglang/worker/modules/page.py",
        attributes=("model_path", "server_args"),
    ),
    Use(f"{_SRT}.utils:cpu_has_amx_support", "sun_sglang/worker/modules/page.py", 0),
    Use(
        f"{_SRT}.managers.io_struct:GenerateReqInput", "patches/modules/held.py", attributes=("extra_key", "lora_path")
    ),
)
