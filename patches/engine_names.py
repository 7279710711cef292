"""Every name of SGLang that this package calls, reads or sets, except the targets of its patches.

A patch states its target's parameters, and refuses another signature when a worker starts. A name in this list would
fail only when it is used, for example at the first request of some kind. `tests/engine/test_names.py` compares the list
with the installed SGLang; it reads SGLang's sources and starts nothing.
"""

from __future__ import annotations

import pkgutil

from sun_sglang.patches.engine_use import Use
from sun_sglang.patches.first_token.engine_names import USES as FIRST_TOKEN
from sun_sglang.patches.lora.engine_names import USES as LORA
from sun_sglang.patches.modules.engine_names import USES as MODULES
from sun_sglang.patches.replay.engine_names import USES as REPLAY
from sun_sglang.patches.versions import installed_version

_SRT = "sglang.srt"
_HTTP = f"{_SRT}.entrypoints.http_server"
_WNA16 = f"{_SRT}.layers.quantization.compressed_tensors.schemes.compressed_tensors_wNa16"
USES = (
    Use("sglang.launch_server:run_server", "sun_sglang/worker/server.py", 1),
    Use(f"{_SRT}.server_args:prepare_server_args", "sun_sglang/worker/server.py", 1),
    Use(f"{_SRT}.utils:kill_process_tree", "sun_sglang/worker/server.py", 1, ("include_parent",)),
    Use(f"{_SRT}.plugins:load_plugins", "sun_sglang/worker/server.py", 0),
    Use(f"{_SRT}.plugins", "pyproject.toml, patches/versions.py", keys=('"sglang.srt.plugins"', "SGLANG_PLUGINS")),
    Use(f"{_SRT}.utils.network", "sun_sglang/launch/places/command.py", keys=("SGLANG_HOST_IP",)),
    Use(f"{_SRT}.utils.numa_utils", "sun_sglang/launch/planning/planner.py", keys=("SGLANG_CPU_OMP_THREADS_BIND",)),
    Use(f"{_SRT}.utils.common", "sun_sglang/cpu.py", keys=("SGLANG_USE_CPU_ENGINE",)),
    Use(
        f"{_SRT}.environ",
        "sun_sglang/http_application.py, sun_sglang/launch/planning/planner.py, sun_sglang/worker/scheduler_watch.py",
        keys=(
            "SGLANG_AUTO_NUMA_BIND",
            "SGLANG_CUDA_COREDUMP_BEFORE_CRASH",
            "SGLANG_RUST_SERVER",
            "SGLANG_SANITIZE_NAN_LOGITS",
        ),
    ),
    Use(f"{_HTTP}:get_global_state", "sun_sglang/worker/server.py", 0),
    Use(_HTTP, "sun_sglang/worker/server.py", attributes=("app",), keys=("openai_serving_tokenize",)),
    Use(f"{_HTTP}:_GlobalState", "sun_sglang/worker/card_page.py", attributes=("tokenizer_manager", "scheduler_info")),
    Use(
        f"{_SRT}.managers.tokenizer_manager:TokenizerManager",
        "sun_sglang/worker/card_page.py",
        attributes=(
            *("_subprocess_watchdog", "config_value", "context_len", "gracefully_exit", "model_path", "server_args"),
            "tokenizer",
        ),
    ),
    Use(f"{_SRT}.managers.tokenizer_manager:TokenizerManager.config_value", "sun_sglang/worker/card_page.py", 2),
    Use(
        f"{_SRT}.managers.scheduler:Scheduler.get_init_info",
        "sun_sglang/worker/card_page.py",
        keys=("max_req_input_len", "max_total_num_tokens"),
    ),
    Use(f"{_SRT}.server_args:ServerArgs.resolved_dict", "sun_sglang/worker/card_page.py", 1),
    Use(
        f"{_SRT}.server_args:ServerArgs",
        "sun_sglang/worker/card_page.py, sun_sglang/checkpoint/identity.py",
        attributes=(
            *("model_path", "revision", "load_format", "dtype", "quantization", "kv_cache_dtype", "page_size"),
            *("tp_size", "dp_size", "pp_size", "attn_cp_size", "tokenizer_path", "chat_template"),
            *("disaggregation_mode", "disaggregation_bootstrap_port", "disaggregation_decode_enable_radix_cache"),
            *("disable_radix_cache", "radix_cache_backend", "tokenizer_worker_num", "weight_version"),
        ),
    ),
    Use(
        f"{_SRT}.utils.watchdog:SubprocessWatchdog",
        "sun_sglang/worker/scheduler_watch.py",
        attributes=("_processes", "_names"),
    ),
    Use(
        f"{_SRT}.entrypoints.openai.protocol:TokenizeRequest",
        "sun_sglang/worker/prompt_counter.py",
        attributes=("prompt", "messages", "add_special_tokens"),
    ),
    Use(
        f"{_SRT}.entrypoints.openai.serving_tokenize:OpenAIServingTokenize",
        "sun_sglang/worker/prompt_counter.py",
        attributes=("tokenizer_manager", "chat_serving"),
    ),
    Use(
        f"{_SRT}.entrypoints.openai.serving_tokenize:OpenAIServingTokenize._tokenize_chat_request",
        "sun_sglang/worker/prompt_counter.py",
        2,
    ),
    Use(
        f"{_SRT}.entrypoints.openai.serving_tokenize:OpenAIServingTokenize.create_error_response",
        "sun_sglang/worker/prompt_counter.py",
        2,
    ),
    Use(
        f"{_SRT}.entrypoints.openai.serving_chat:OpenAIServingChat",
        "sun_sglang/worker/prompt_counter.py",
        attributes=("tokenizer_manager", "_chat_template_cache"),
    ),
    Use(f"{_SRT}.server_args:ServerArgs.add_cli_args", "sun_sglang/launch/planning/flags/flag_schema.py", 1),
    Use(
        f"{_SRT}.arg_groups.pd_disaggregation_hook:handle_pd_disaggregation",
        "sun_sglang/launch/planning/flags/speculative.py",
        1,
    ),
    Use(
        f"{_SRT}.arg_groups.speculative_hook:handle_speculative_decoding",
        "sun_sglang/launch/planning/flags/speculative.py",
        1,
    ),
    Use(
        f"{_SRT}.speculative.spec_info:SpeculativeAlgorithm",
        "sun_sglang/launch/planning/flags/speculative.py",
        attributes=("NONE",),
    ),
    Use(f"{_SRT}.plugins.hook_registry:HookRegistry.register", "patches/patch.py", 3),
    Use(
        f"{_SRT}.plugins.hook_registry:HookType",
        "patches/patch.py",
        attributes=("BEFORE", "AFTER", "AROUND", "REPLACE"),
    ),
    Use(
        f"{_SRT}.entrypoints.engine:SchedulerInitResult",
        "patches/report_patches.py",
        attributes=("scheduler_infos", "wait_for_ready"),
    ),
    Use(f"{_SRT}.managers.data_parallel_controller", "patches/report_patches.py", keys=("scheduler_pids",)),
    Use(f"{_SRT}.managers.scheduler:Scheduler", "patches/report_patches.py", attributes=("tp_worker",)),
    Use(f"{_SRT}.managers.tp_worker:TpModelWorker", "patches/report_patches.py", attributes=("model_runner",)),
    Use(
        f"{_SRT}.model_executor.model_runner:ModelRunner",
        "patches/report_patches.py",
        attributes=("kv_cache_dtype_str", "lora_manager"),
    ),
    Use(f"{_SRT}.mem_cache.registry:get_radix_cache_factory", "patches/cache/prompt_only_cache.py", 1),
    Use(
        f"{_SRT}.mem_cache.registry:create_unified_radix_cache",
        "patches/cache/prompt_only_cache.py",
        1,
        ("cache_class",),
    ),
    Use(
        f"{_SRT}.mem_cache.registry:TreeCacheBuildContext",
        "patches/cache/prompt_only_cache.py",
        attributes=("params", "is_hybrid_swa", "full_tokens_per_layer"),
    ),
    Use(
        f"{_SRT}.mem_cache.unified_radix_cache:UnifiedRadixCache",
        "patches/cache/prompt_only_cache.py",
        attributes=("on_release", "req_to_token_pool"),
    ),
    Use(
        f"{_SRT}.mem_cache.pure_swa_radix_cache:PureSWARadixCache", "patches/cache/prompt_only_cache.py", 0, ("params",)
    ),
    Use(
        f"{_SRT}.managers.schedule_batch:Req",
        "patches/cache/prompt_only_cache.py",
        attributes=("finished", "kv", "origin_input_ids", "retracted_stain"),
    ),
    Use(
        f"{_SRT}.managers.schedule_batch:Req",
        "patches/cache/prompt_only_cache.py",
        attributes=("get_fill_ids", "prefix_indices"),
        only=("0.5.21",),
    ),
    Use(
        f"{_SRT}.managers.scheduler:Scheduler",
        "patches/processes/waiting_scheduler.py",
        attributes=("idle_sleeper", "is_fully_idle"),
    ),
    Use(
        f"{_SRT}.managers.scheduler_components.idle_sleeper:IdleSleeper",
        "patches/processes/waiting_scheduler.py",
        attributes=("poller",),
    ),
    Use(f"{_SRT}.managers.schedule_batch:ScheduleBatch", "patches/cache/prefill_hits.py", attributes=("reqs",)),
    Use(
        f"{_SRT}.managers.schedule_batch:Req",
        "patches/cache/prefill_hits.py, patches/transfer/first_ids_row.py",
        attributes=("already_computed", "logprob", "origin_input_ids", "retracted_stain", "return_logprob"),
    ),
    Use(
        f"{_SRT}.managers.schedule_batch:Req",
        "patches/cache/prefill_hits.py",
        attributes=("prefix_len",),
        only=("0.5.22", "0.5.23"),
    ),
    Use(
        f"{_SRT}.disaggregation.decode_schedule_batch_mixin",
        "patches/cache/prefill_hits.py",
        keys=("delta = max(0, pre_len - req.already_computed)",),
    ),
    Use(
        f"{_SRT}.managers.scheduler_components.output_streamer:SchedulerOutputStreamer.get_cached_tokens_details",
        "patches/cache/prefill_hits.py",
        keys=('"device"', '"host"'),
    ),
    Use(
        f"{_SRT}.managers.schedule_batch:ReqLogprob",
        "patches/transfer/first_ids_row.py",
        attributes=(
            *("output_token_ids_logprobs_idx", "output_token_ids_logprobs_val", "output_token_logprobs_val"),
            "token_ids_logprob",
        ),
    ),
    Use(f"{_SRT}.disaggregation.decode:DecodeRequest", "patches/transfer/first_ids_row.py", attributes=("req",)),
    Use(
        f"{_SRT}.mem_cache.allocator.paged:PagedTokenToKVPoolAllocator",
        "patches/cache/paged_alloc_cpu.py",
        attributes=("device", "free_pages", "merge_and_sort_free", "page_size"),
    ),
    Use(f"{_SRT}.mem_cache.allocator.paged:alloc_extend_naive", "patches/cache/paged_alloc_cpu.py", 7),
    Use(
        f"{_SRT}.utils:get_num_new_pages",
        "patches/cache/paged_alloc_cpu.py",
        0,
        ("seq_lens", "page_size", "prefix_lens"),
    ),
    Use(
        f"{_SRT}.constrained.base_grammar_backend:BaseGrammarBackend",
        "patches/cache/few_grammars.py",
        attributes=("cache",),
    ),
    Use(f"{_SRT}.runtime_context:get_serving", "patches/worker_key.py", 0),
    Use(
        f"{_SRT}.disaggregation.common.conn:CommonKVManager",
        "patches/transfer/keyed_transfer.py, patches/transfer/transfer_threads.py",
        attributes=("_zmq_ctx", "request_status"),
    ),
    Use(
        f"{_SRT}.disaggregation.common.conn:CommonKVReceiver",
        "patches/transfer/keyed_transfer.py",
        attributes=("_ctx",),
    ),
    Use(f"{_SRT}.disaggregation.base.conn:KVArgs", "patches/transfer/nixl_dram.py", attributes=("kv_data_ptrs",)),
    Use(f"{_SRT}.disaggregation.nixl.conn", "patches/transfer/nixl_dram.py", keys=("kv_data_mem_kinds",)),
    Use(f"{_WNA16}:CompressedTensorsWNA16.get_min_capability", "patches/weights/schemes.py", 0),
    Use(
        f"{_WNA16}:CompressedTensorsWNA16",
        "patches/weights/load.py",
        attributes=("kernel_config", "pack_factor"),
        keys=('"weight_packed"', '"weight_scale"', '"weight_zero_point"', '"weight_g_idx"'),
    ),
    Use(
        f"{_SRT}.layers.quantization.marlin_utils:MarlinLinearLayerConfig",
        "patches/weights/load.py",
        attributes=("partition_weight_shape",),
    ),
    *FIRST_TOKEN,
    *LORA,
    *MODULES,
    *REPLAY,
)
# the routes of a worker that the router, the launcher and the worker card use, besides those of clients
ROUTES = (
    *("/abort_request", "/flush_cache", "/generate", "/health", "/server_info", "/v1/chat/completions"),
    *("/load_lora_adapter", "/unload_lora_adapter"),
    *("/v1/completions", "/v1/loads", "/update_weights_from_disk", "/update_weights_from_tensor"),
    *("/update_weights_from_distributed", "/update_weights_from_ipc"),
)


def faults() -> list[str]:
    """Return a sentence for each use that the installed SGLang does not support; call `prepare_process` before."""
    served = pkgutil.resolve_name(f"{_HTTP}:app").openapi()["paths"]
    gone = [f"sun_sglang/router: SGLang serves no {route}" for route in ROUTES if route not in served]
    version = installed_version()
    used = [use for use in USES if not use.only or version in use.only]
    return [fault for use in used for fault in use.faults()] + gone
