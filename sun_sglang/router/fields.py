"""Which fields of a request only the router may set, which it reads itself, and how those are checked. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

from sun_sglang.errors import RequestError

# SGLang's prefill server ends when a request asks for more (disaggregation/utils.py: MetadataBuffers).
MAX_TOP_LOGPROBS = 128
MAX_CHOICES = 128
# One request may become this many; every one of them is a request to two workers.
MAX_FAN_OUT = 4096

# Each would let a client choose workers, read another request's KV, or reach state that one worker alone holds
# (srt/managers/io_struct.py: GenerateReqInput, srt/entrypoints/openai/protocol.py).
RESERVED = frozenset(
    {
        "bootstrap_host",
        "bootstrap_port",
        "bootstrap_room",
        "bootstrap_pair_key",
        "decode_tp_size",
        "routed_dp_rank",
        "data_parallel_rank",
        "disagg_prefill_dp_rank",
        "http_worker_ipc",
        "kv_hints",
        "lora_path",
        "lora_id",
        "session_params",
        "need_wait_for_mm_inputs",
        "num_items_assigned",
        "encoder_urls",
        "external_trace_header",
        "received_time",
        "return_bytes",
        "positional_embed_overrides",
    }
)
_WHY = {
    "lora_path": "a task names its own model; send the task's name as `model`",
    "positional_embed_overrides": "send `text` or `input_ids`",
    "session_params": "a session lives in one worker, and a task has several; send the whole prompt",
}


def refuse_reserved(body: Mapping[str, Any]) -> None:
    """Raise RequestError (400) if a client sets a field that only the router may set. Null counts as not set."""
    for name in RESERVED.intersection(body):
        value = body[name]
        if value is None or (name == "lora_path" and value == ""):
            continue
        why = _WHY.get(name, "remove it")
        raise RequestError(400, f"`{name}` is not for clients to set; {why}", param=name, code="reserved_field")


def is_int(value: object) -> TypeGuard[int]:
    """An integer that is not a boolean."""
    return isinstance(value, int) and not isinstance(value, bool)


def take_bool(body: dict[str, Any], name: str) -> bool:
    """Remove a boolean field; null and absent are False."""
    value = body.pop(name, None)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise RequestError(400, f"`{name}` has to be true or false", param=name)
    return value


def take_count(body: dict[str, Any], name: str, *, most: int) -> int:
    """Remove a field that counts from 1; null and absent are 1."""
    value = body.pop(name, None)
    if value is None:
        return 1
    if not is_int(value) or not 1 <= value <= most:
        raise RequestError(400, f"`{name}` has to be an integer from 1 to {most}", param=name)
    return value


def check_top_logprobs(body: Mapping[str, Any], name: str) -> None:
    """Raise RequestError (400) for more alternatives than a hand-over of KV can carry.

    `top_logprobs_num` may be a list, of one number for each prompt.
    """
    value = body.get(name)
    for item in value if isinstance(value, list) and value and name == "top_logprobs_num" else [value]:
        if item is None or (name == "logprobs" and isinstance(item, bool)):
            continue
        if not is_int(item) or not 0 <= item <= MAX_TOP_LOGPROBS:
            raise RequestError(400, f"`{name}` has to be an integer from 0 to {MAX_TOP_LOGPROBS}", param=name)


def check_token_ids(ids: object, name: str) -> None:
    """Raise RequestError (400) unless `ids` is a non-empty list of token ids (32-bit, from 0)."""
    if not isinstance(ids, list) or not ids:
        raise RequestError(400, f"`{name}` has to be a non-empty list of token ids", param=name)
    # one pass in C each: a long prompt has tens of thousands of them
    if set(map(type, ids)) != {int} or min(ids) < 0 or max(ids) >= 1 << 31:
        raise RequestError(400, f"`{name}` has to hold token ids: integers from 0", param=name)


def check_logprob_start(body: Mapping[str, Any]) -> None:
    """Raise RequestError (400) for a start before the prompt, which ends SGLang's prefill server."""
    value = body.get("logprob_start_len")
    for item in value if isinstance(value, list) else [value]:
        if item is not None and (not is_int(item) or item < -1):
            raise RequestError(400, "`logprob_start_len` has to be an integer from -1", param="logprob_start_len")


def check_hidden_states(body: Mapping[str, Any]) -> None:
    """Raise RequestError (400) for a `return_hidden_states` that is none of SGLang's; another type ends its servers."""
    value = body.get("return_hidden_states")
    for item in value if isinstance(value, list) and value else [value]:
        if item is not None and not isinstance(item, bool) and item != "last":
            name = "return_hidden_states"
            raise RequestError(400, f"`{name}` has to be true, false or `last`", param=name)
