"""The table of request fields: one rule for each field that SGLang accepts, for each endpoint. Pure data.

Sources: srt/entrypoints/openai/protocol.py, srt/managers/io_struct.py (GenerateReqInput),
srt/sampling/sampling_params.py, and sglang/api/v1/api_types.py, which checks a /generate body. A field without a rule
is dropped, since SGLang ignores it. In `sampling_params` it is refused, since SGLang fails.

One table serves every version of SGLang and contains the fields of all versions. A version ignores a newer top-level
field, so the router forwards such a field if an answer without it is not wrong. A version answers 500 to a newer
sampling parameter, so the router forwards only those that every version accepts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sun_sglang.router.protocol.fields import value_types
from sun_sglang.router.protocol.fields.value_types import ValueType, ids, integer, text


class Forwarded(NamedTuple):
    """The workers receive the field.

    Attributes:
        type: the type and bounds of the value.
        per_prompt: the value may be a list with one value for each prompt.
        permission: the entry of `router.allow` that the field needs; empty if it needs none.
        keeps_null: null is forwarded, since it means something else than no value.
    """

    type: ValueType
    per_prompt: bool = False
    permission: str = ""
    keeps_null: bool = False


class RouterOwned(NamedTuple):
    """The router reads the field, and the workers receive a value that the router sets."""

    type: ValueType


class Dropped(NamedTuple):
    """The workers do not receive the field; it changes no answer."""

    why: str


class Refused(NamedTuple):
    """A request with the field is answered with 400. Values that mean no value (null, false, empty) are dropped."""

    why: str


Rule = Forwarded | RouterOwned | Dropped | Refused
Table = Mapping[str, Rule]

MAX_NAME = 256
MAX_KEY = 1024
MAX_GRAMMAR = 65_536
MAX_SUFFIX = 65_536
MAX_CHOICES = 128
# the time between two events must stay far below the deadline for a worker that sends nothing
MAX_STREAM_INTERVAL = 256

_WORKERS = "the router chooses workers; remove it"
_INTERNAL = "SGLang uses it internally; remove it"
_TEXT_ONLY = "only text models are served; send text"
_ADAPTER = "a task names its own model; send the task's name as `model`"
_PROMPT = "send `text` or `input_ids`"
_SESSION = "one worker keeps a session, and a task has several workers; send the whole prompt"
_SCORING = "SGLang's scoring sets it; remove it"
# srt/arg_groups/validation_hook.py refuses `--enable-watermark` for such workers
_WATERMARK = "SGLang makes no watermark with separate prefill and decode workers; remove it"
_HINT = "it is a hint that changes no answer"
_MEDIA_HINT = "it is a setting of media, and only text is served"

# Each would let a client choose workers, read another request's KV, or use state of one worker.
_RESERVED: Table = {
    **dict.fromkeys(("bootstrap_host", "bootstrap_port", "bootstrap_room", "bootstrap_pair_key"), Refused(_WORKERS)),
    **dict.fromkeys(("decode_tp_size", "routed_dp_rank", "data_parallel_rank"), Refused(_WORKERS)),
    **dict.fromkeys(("disagg_prefill_dp_rank", "http_worker_ipc", "encoder_urls"), Refused(_WORKERS)),
    **dict.fromkeys(("kv_hints", "need_wait_for_mm_inputs", "num_items_assigned"), Refused(_INTERNAL)),
    **dict.fromkeys(("external_trace_header", "received_time", "return_bytes"), Refused(_INTERNAL)),
    **dict.fromkeys(("lora_path", "lora_id"), Refused(_ADAPTER)),
    "session_params": Refused(_SESSION),
    "positional_embed_overrides": Refused(_PROMPT),
    "priority": Refused("the router orders requests; give the task a `weight` in the topology"),
    "custom_params": Refused("it reaches the workers' schedulers unchecked; remove it"),
    "custom_logit_processor": Refused("the workers' schedulers would run its code; use `logit_bias`"),
}
_GRAMMARS: Table = {
    "regex": Forwarded(text(MAX_GRAMMAR), permission="regex"),
    "ebnf": Forwarded(text(MAX_GRAMMAR), permission="ebnf"),
}
_ROUTERS: Table = {
    "stream": RouterOwned(value_types.FLAG),
    "rid": RouterOwned(text(MAX_NAME)),
    "extra_key": RouterOwned(text(MAX_KEY)),
    "cache_salt": RouterOwned(text(MAX_KEY)),
    "model": RouterOwned(text()),
}
# the fields that /v1/completions, /v1/chat/completions and `sampling_params` share
_SAMPLING: Table = {
    "n": RouterOwned(integer(1, MAX_CHOICES)),
    "temperature": Forwarded(value_types.TEMPERATURE),
    "top_p": Forwarded(value_types.TOP_P),
    "top_k": Forwarded(value_types.TOP_K),
    "min_p": Forwarded(value_types.MIN_P),
    "frequency_penalty": Forwarded(value_types.PENALTY),
    "presence_penalty": Forwarded(value_types.PENALTY),
    "repetition_penalty": Forwarded(value_types.REPETITION_PENALTY),
    "logit_bias": Forwarded(value_types.LOGIT_BIAS),
    "stop": Forwarded(value_types.STOP),
    "stop_token_ids": Forwarded(value_types.STOP_IDS),
    "stop_regex": Forwarded(value_types.STOP_REGEX, permission="stop_regex"),
    "ignore_eos": Forwarded(value_types.FLAG),
    "no_stop_trim": Forwarded(value_types.FLAG),
    "skip_special_tokens": Forwarded(value_types.FLAG),
    **_GRAMMARS,
}
_OPENAI: Table = {
    **_RESERVED,
    **_ROUTERS,
    **_SAMPLING,
    "stream_options": RouterOwned(value_types.OBJECT),
    "max_tokens": Forwarded(value_types.COUNT),
    "min_tokens": Forwarded(value_types.COUNT),
    "seed": Forwarded(value_types.SEED),
    "response_format": Forwarded(value_types.OBJECT),
    "return_hidden_states": Forwarded(value_types.LAST_HIDDEN_STATE),
    "return_routed_experts": Forwarded(value_types.NO_PROMPT_STATES),
    "routed_experts_start_len": Forwarded(value_types.COUNT),
    **dict.fromkeys(
        (
            "return_cached_tokens_details",
            "return_spec_tokens_details",
            "return_token_ids",
        ),
        Forwarded(value_types.FLAG),
    ),
    **dict.fromkeys(("user", "session_id", "custom_labels"), Dropped(_HINT)),
    "watermark": Forwarded(value_types.NO_WATERMARK),
    **dict.fromkeys(("images_config", "mm_processor_kwargs"), Dropped(_MEDIA_HINT)),
}
COMPLETIONS: Table = {
    **_OPENAI,
    "prompt": Forwarded(value_types.SHAPED),
    "echo": Forwarded(value_types.FLAG),
    "logprobs": Forwarded(value_types.TOP_OR_FLAG),
    "suffix": Forwarded(text(MAX_SUFFIX)),
    "json_schema": Forwarded(text(MAX_GRAMMAR)),
    "best_of": Dropped("SGLang ignores it"),
}
CHAT: Table = {
    **_OPENAI,
    "messages": Forwarded(value_types.SHAPED),
    "input_ids": Forwarded(value_types.SHAPED),
    "logprobs": Forwarded(value_types.FLAG),
    "top_logprobs": Forwarded(value_types.TOP_LOGPROBS),
    "max_completion_tokens": Forwarded(value_types.COUNT),
    "tools": Forwarded(value_types.TOOLS),
    "tool_choice": Forwarded(value_types.TOOL_CHOICE),
    "reasoning_effort": Forwarded(value_types.EFFORT),
    "reasoning": Forwarded(value_types.OBJECT),
    "task": Forwarded(text(MAX_NAME)),
    "chat_template_kwargs": Forwarded(value_types.TEMPLATE_ARGUMENTS),
    # SGLang reads it for one model only, as an object with a `type`
    "thinking": Forwarded(value_types.OBJECT),
    "sampling_logprobs_mode": Forwarded(value_types.MASK_MODE),
    **dict.fromkeys(
        (
            "parallel_tool_calls",
            "return_prompt_token_ids",
            "return_meta_info",
            "return_input_ids_in_sglext",
            "return_output_ids_in_sglext",
            "return_sampling_mask",
            # both concern alternatives of the answer's tokens, which the decode worker's reply contains already
            "return_flat_raw_output_top_logprobs",
            "return_flat_raw_top_logprobs_b64",
            "continue_final_message",
            "separate_reasoning",
            "stream_reasoning",
        ),
        Forwarded(value_types.FLAG),
    ),
    **dict.fromkeys(
        ("max_dynamic_patch", "min_dynamic_patch", "use_audio_in_video", "video_config"), Dropped(_MEDIA_HINT)
    ),
}
GENERATE: Table = {
    **_RESERVED,
    **_ROUTERS,
    "text": Forwarded(value_types.SHAPED),
    "input_ids": Forwarded(value_types.SHAPED),
    "input_embeds": Refused(_PROMPT),
    "sampling_params": Forwarded(value_types.SHAPED),
    "return_logprob": Forwarded(value_types.FLAG, per_prompt=True),
    "logprob_start_len": Forwarded(integer(-1, value_types.INT32_MAX), per_prompt=True),
    "top_logprobs_num": Forwarded(value_types.TOP_LOGPROBS, per_prompt=True),
    "token_ids_logprob": Forwarded(ids(value_types.MAX_IDS), per_prompt=True),
    "return_sampling_mask": Forwarded(value_types.FLAG, per_prompt=True),
    "sampling_logprobs_mode": Forwarded(value_types.MASK_MODE, per_prompt=True),
    "return_hidden_states": Forwarded(value_types.LAST_HIDDEN_STATE, per_prompt=True),
    "return_routed_experts": Forwarded(value_types.NO_PROMPT_STATES),
    "routed_experts_start_len": Forwarded(value_types.COUNT),
    "return_indexer_topk": Forwarded(value_types.NO_PROMPT_STATES),
    "max_thinking_tokens": Forwarded(value_types.COUNT),
    "watermark": Forwarded(value_types.NO_WATERMARK, per_prompt=True),
    **dict.fromkeys(
        (
            "return_text_in_logprobs",
            "return_flat_raw_top_logprobs",
            "return_flat_raw_output_top_logprobs",
            "return_flat_raw_top_logprobs_b64",
            "return_entropy",
            "return_prompt_token_ids",
            "require_reasoning",
            "no_logs",
        ),
        Forwarded(value_types.FLAG),
    ),
    **dict.fromkeys(
        ("image_data", "video_data", "audio_data", "modalities"),
        Refused(_TEXT_ONLY),
    ),
    **dict.fromkeys(("mm_hashes", "mm_content_hashes"), Refused("it sets keys of the prefix cache; " + _TEXT_ONLY)),
    "background": Refused("the request would continue after its client left; remove it"),
    **dict.fromkeys(("multi_item_delimiter_indices", "token_indices_to_pool"), Refused(_SCORING)),
    **dict.fromkeys(("session_id", "conversation_id", "routing_key", "custom_labels", "log_metrics"), Dropped(_HINT)),
    **dict.fromkeys(("use_audio_in_video", "video_config", "images_config"), Dropped(_MEDIA_HINT)),
    **dict.fromkeys(("max_dynamic_patch", "min_dynamic_patch", "mm_processor_kwargs"), Dropped(_MEDIA_HINT)),
    **dict.fromkeys(("image_max_dynamic_patch", "video_max_dynamic_patch"), Dropped(_MEDIA_HINT)),
}
SAMPLING_PARAMS: Table = {
    **_SAMPLING,
    "max_new_tokens": Forwarded(value_types.COUNT, keeps_null=True),
    "min_new_tokens": Forwarded(value_types.COUNT),
    "sampling_seed": Forwarded(value_types.SEED),
    "stream_interval": Forwarded(integer(1, MAX_STREAM_INTERVAL)),
    "spaces_between_special_tokens": Forwarded(value_types.FLAG),
    "json_schema": Forwarded(text(MAX_GRAMMAR)),
    "structural_tag": Forwarded(text(MAX_GRAMMAR), permission="structural_tag"),
    "beam_width": Refused("SGLang has no beam search with separate prefill and decode workers; use `n`"),
    "custom_params": _RESERVED["custom_params"],
    "watermark": Refused(_WATERMARK),
    **dict.fromkeys(
        (
            "stop_strs",
            "stop_regex_strs",
            "stop_str_max_len",
            "stop_regex_max_len",
            "is_normalized",
            "ebnf_full_assistant",
        ),
        Refused(_INTERNAL),
    ),
}
# the fields of /generate that may hold one value for all prompts, or a list of one for each
PER_PROMPT = tuple(name for name, rule in GENERATE.items() if isinstance(rule, Forwarded) and rule.per_prompt)


def is_lax(table: Table) -> bool:
    """Return whether SGLang converts values of these fields (`"12"` to 12). Its check of a /generate body does not."""
    return table is COMPLETIONS or table is CHAT
