"""The replies of SGLang's `/v1/loads`, `/model_info` and `/server_info` for an emulated worker. Pure."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from sun_sglang.contracts.worker_card import WorkerCard
from sun_sglang.emulator.engine.engine import Engine
from sun_sglang.emulator.protocol.errors import InternalError
from sun_sglang.emulator.settings import Settings

_SECTIONS = frozenset(("core", "memory", "spec", "lora", "disagg", "queues", "all"))
_MAX_RUNNING = 4096


def loads(engine: Engine, settings: Settings, *, include: str | None, dp_rank: str | None) -> dict[str, Any]:
    """Return the reply of `/v1/loads`.

    Args:
        engine: the worker's engine.
        settings: the worker's settings.
        include: the query's comma-separated sections; None for all.
        dp_rank: the query's data-parallel rank; None for all.

    Raises:
        InternalError: SGLang has no such section, and answers 500.
    """
    sections = {s.strip() for s in include.split(",")} if include else {"all"}
    if not sections <= _SECTIONS:
        raise InternalError(f"unknown sections {sections - _SECTIONS}")
    ranks = [_rank(engine, settings, sections)] if dp_rank in (None, "0") else []
    return {
        "timestamp": datetime.now(UTC).isoformat(),
        "version": settings.emulation.sglang,
        "accelerator": None,
        "num_accelerators": 1,
        "loads": ranks,
    }


def _rank(engine: Engine, settings: Settings, sections: set[str]) -> dict[str, Any]:
    load, capacity = engine.load(), engine.limits.kv
    rank: dict[str, Any] = {
        "timestamp": time.time(),
        "dp_rank": 0,
        "num_running_reqs": load["running"],
        "num_waiting_reqs": load["waiting"],
        "num_waiting_uncached_tokens": load["waiting_tokens"],
        "num_used_tokens": load["used"],
        "num_total_tokens": load["used"] + load["waiting_tokens"],
        "num_active_tokens": load["used"],
        "num_prealloc_ready_tokens": 0,
        "max_total_num_tokens": capacity,
        "max_running_requests": _MAX_RUNNING,
        "token_usage": round(load["used"] / capacity, 4),
        "gen_throughput": 0.0,
        "cache_hit_rate": 0.0,
        "utilization": 0.0,
        "total_prefill_uncached_tokens": engine.total_tokens if settings.role == "prefill" else 0,
        "total_prefill_busy_us": 0,
        "decode_moments": load.get("decode_moments"),
    }
    everything = "all" in sections
    if everything or "memory" in sections:
        rank["memory"] = {"weight_gb": 0.0, "kv_cache_gb": 0.0, "graph_gb": 0.0, "token_capacity": capacity}
    if settings.adapters is not None and (everything or "lora" in sections):
        slots, used = settings.adapters.slots, engine.used_adapters
        rank["lora"] = {"slots_used": used, "slots_total": slots, "utilization": used / slots}
    if everything or "disagg" in sections:
        queues = ("prefill_bootstrap", "prefill_inflight", "decode_prealloc", "decode_transfer", "decode_retracted")
        rank["disaggregation"] = {
            "mode": settings.role,
            **{f"{q}_queue_reqs": load.get(f"{q}_queue_reqs", 0) for q in queues},
            "kv_transfer_speed_gb_s": 0.0,
            "kv_transfer_latency_ms": 0.0,
        }
    if everything or "queues" in sections:
        rank["queues"] = {
            "waiting": load["waiting"],
            "grammar": 0,
            "paused": 0,
            "retracted": load.get("decode_retracted_queue_reqs", 0),
            "prealloc_ready": 0,
        }
    return rank


def model_info(settings: Settings, card: WorkerCard) -> dict[str, Any]:
    """Return the reply of `/model_info`."""
    return {
        "model_path": settings.model,
        "served_model_name": settings.served_model_name,
        "tokenizer_path": settings.engine.get("tokenizer_path", settings.model),
        "is_generation": True,
        "preferred_sampling_params": None,
        "weight_version": "default",
        "load_format": "emulated",
        "reasoning_parser": None,
        "tool_call_parser": None,
        "disaggregation_mode": settings.role,
        "has_image_understanding": False,
        "has_audio_understanding": False,
        "model_type": "emulated",
        "architectures": [card.identity.architecture],
    }


def server_info(engine: Engine, settings: Settings, card: WorkerCard) -> dict[str, Any]:
    """Return the reply of `/server_info`, with the keys that clients of SGLang read and not every flag.

    Args:
        engine: the worker's engine.
        settings: the worker's settings.
        card: the worker's card.
    """
    return {
        "model_path": settings.model,
        "tokenizer_path": settings.engine.get("tokenizer_path", settings.model),
        "served_model_name": settings.served_model_name,
        "disaggregation_mode": settings.role,
        "disaggregation_bootstrap_port": settings.bootstrap_port,
        "host": settings.host,
        "port": settings.port,
        "page_size": card.identity.page_size or 1,
        "tp_size": card.identity.tp_size,
        "context_length": settings.context_length,
        "max_total_num_tokens": card.kv_tokens,
        "max_req_input_len": card.max_input_tokens,
        "internal_states": [{"last_gen_throughput": 0.0, "effective_max_running_requests_per_dp": _MAX_RUNNING}],
        "version": settings.emulation.sglang,
        "backend": "emulated",
    }
