"""What becomes of every field of a request: the table of what SGLang accepts, endpoint by endpoint. Pure data.

Read: srt/entrypoints/openai/protocol.py, srt/managers/io_struct.py (GenerateReqInput), srt/sampling/sampling_params.py,
and sglang/api/v1/api_types.py, the check of a /generate body. A field that is in no table is dropped, as SGLang ignores
it. In `sampling_params`, where SGLang fails, it is refused.

One table serves every version of SGLang: it has the fields of all of them. A version ignores a top-level field that is
newer than itself, so such a field may be passed on where an answer without it is no wrong answer. A sampling parameter
that a version lacks is a 500 there, so only those that every version has are passed on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sun_sglang.router.protocol.fields import kinds
from sun_sglang.router.protocol.fields.kinds import Kind, ids, integer, text


class Passed(NamedTuple):
    """The workers get it.

    Attributes:
        kind: what it has to be.
        each: it may be a list with one value for each prompt.
        gate: what `router.allow` must name; "" where nothing is needed.
        keeps_null: a null means something else than no value.
    """

    kind: Kind
    each: bool = False
    gate: str = ""
    keeps_null: bool = False


class Taken(NamedTuple):
    """The router reads it, and the workers get a value of the router's own."""

    kind: Kind


class Dropped(NamedTuple):
    """The workers do not get it; it changes no answer."""

    why: str


class Refused(NamedTuple):
    """A request with it is answered with 400. Values that say nothing (null, false, empty) are dropped."""

    why: str


Rule = Passed | Taken | Dropped | Refused
Table = Mapping[str, Rule]

MAX_NAME = 256
MAX_KEY = 1024
MAX_GRAMMAR = 65_536
MAX_SUFFIX = 65_536
MAX_CHOICES = 128
# A step between two events must stay far below the time after which a silent worker is given up.
MAX_STREAM_INTERVAL = 256

_WORKERS = "the router chooses workers; remove it"
_INTERNAL = "it is internal to SGLang; remove it"
_TEXT_ONLY = "only text models are served; send text"
_ADAPTER = "a task names its own model; send the task's name as `model`"
_PROMPT = "send `text` or `input_ids`"
_SESSION = "a session lives in one worker, and a task has several; send the whole prompt"
_SCORING = "SGLang's scoring sets it; remove it"
# srt/arg_groups/validation_hook.py refuses `--enable-watermark` there, so no worker can make one
_WATERMARK = "SGLang makes no watermark with separate prefill and decode workers; remove it"
_HINT = "a hint that changes no answer"
_MEDIA_HINT = "a setting of media, and only text is served"

# Each would let a client choose workers, read another request's KV, or reach state that one worker alone holds.
_RESERVED: Table = {
    **dict.fromkeys(("bootstrap_host", "bootstrap_port", "bootstrap_room", "bootstrap_pair_key"), Refused(_WORKERS)),
    **dict.fromkeys(("decode_tp_size", "routed_dp_rank", "data_parallel_rank"), Refused(_WORKERS)),
    **dict.fromkeys(("disagg_prefill_dp_rank", "http_worker_ipc", "encoder_urls"), Refused(_WORKERS)),
    **dict.fromkeys(("kv_hints", "need_wait_for_mm_inputs", "num_items_assigned"), Refused(_INTERNAL)),
    **dict.fromkeys(("external_trace_header", "received_time", "return_bytes"), Refused(_INTERNAL)),
    **dict.fromkeys(("lora_path", "lora_id"), Refused(_ADAPTER)),
    "session_params": Refused(_SESSION),
    "positional_embed_overrides": Refused(_PROMPT),
    "priority": Refused("the order of requests is the router's; give the task a `weight` in the topology"),
    "custom_params": Refused("it reaches the workers' schedulers unchecked; remove it"),
    "custom_logit_processor": Refused("it is code that the workers' schedulers would run; use `logit_bias`"),
}
_GRAMMARS: Table = {
    "regex": Passed(text(MAX_GRAMMAR), gate="regex"),
    "ebnf": Passed(text(MAX_GRAMMAR), gate="ebnf"),
}
_ROUTERS: Table = {
    "stream": Taken(kinds.FLAG),
    "rid": Taken(text(MAX_NAME)),
    "extra_key": Taken(text(MAX_KEY)),
    "cache_salt": Taken(text(MAX_KEY)),
    "model": Taken(text()),
}
# What /v1/completions, /v1/chat/completions and `sampling_params` share.
_SAMPLING: Table = {
    "n": Taken(integer(1, MAX_CHOICES)),
    "temperature": Passed(kinds.TEMPERATURE),
    "top_p": Passed(kinds.TOP_P),
    "top_k": Passed(kinds.TOP_K),
    "min_p": Passed(kinds.MIN_P),
    "frequency_penalty": Passed(kinds.PENALTY),
    "presence_penalty": Passed(kinds.PENALTY),
    "repetition_penalty": Passed(kinds.REPETITION_PENALTY),
    "logit_bias": Passed(kinds.LOGIT_BIAS),
    "stop": Passed(kinds.STOP),
    "stop_token_ids": Passed(kinds.STOP_IDS),
    "stop_regex": Passed(kinds.STOP_REGEX, gate="stop_regex"),
    "ignore_eos": Passed(kinds.FLAG),
    "no_stop_trim": Passed(kinds.FLAG),
    "skip_special_tokens": Passed(kinds.FLAG),
    **_GRAMMARS,
}
_OPENAI: Table = {
    **_RESERVED,
    **_ROUTERS,
    **_SAMPLING,
    "stream_options": Taken(kinds.OBJECT),
    "max_tokens": Passed(kinds.COUNT),
    "min_tokens": Passed(kinds.COUNT),
    "seed": Passed(kinds.SEED),
    "response_format": Passed(kinds.OBJECT),
    "return_hidden_states": Passed(kinds.HIDDEN_STATES),
    "routed_experts_start_len": Passed(kinds.COUNT),
    **dict.fromkeys(
        (
            "return_routed_experts",
            "return_cached_tokens_details",
            "return_spec_tokens_details",
            "return_token_ids",
        ),
        Passed(kinds.FLAG),
    ),
    **dict.fromkeys(("user", "session_id", "custom_labels"), Dropped(_HINT)),
    "watermark": Passed(kinds.NO_WATERMARK),
    **dict.fromkeys(("images_config", "mm_processor_kwargs"), Dropped(_MEDIA_HINT)),
}
COMPLETIONS: Table = {
    **_OPENAI,
    "prompt": Passed(kinds.SHAPED),
    "echo": Passed(kinds.FLAG),
    "logprobs": Passed(kinds.TOP_OR_FLAG),
    "suffix": Passed(text(MAX_SUFFIX)),
    "json_schema": Passed(text(MAX_GRAMMAR)),
    "best_of": Dropped("SGLang ignores it"),
}
CHAT: Table = {
    **_OPENAI,
    "messages": Passed(kinds.SHAPED),
    "input_ids": Passed(kinds.SHAPED),
    "logprobs": Passed(kinds.FLAG),
    "top_logprobs": Passed(kinds.TOP_LOGPROBS),
    "max_completion_tokens": Passed(kinds.COUNT),
    "tools": Passed(kinds.TOOLS),
    "tool_choice": Passed(kinds.TOOL_CHOICE),
    "reasoning_effort": Passed(kinds.EFFORT),
    "reasoning": Passed(kinds.OBJECT),
    "task": Passed(text(MAX_NAME)),
    "chat_template_kwargs": Passed(kinds.TEMPLATE_ARGUMENTS),
    # SGLang reads it for one model alone, as an object with a `type`
    "thinking": Passed(kinds.OBJECT),
    "sampling_logprobs_mode": Passed(kinds.MASK_MODE),
    **dict.fromkeys(
        (
            "parallel_tool_calls",
            "return_prompt_token_ids",
            "return_meta_info",
            "return_input_ids_in_sglext",
            "return_output_ids_in_sglext",
            "return_sampling_mask",
            # both concern the answer's own alternatives, which are all in the decode worker's reply: nothing to merge
            "return_flat_raw_output_top_logprobs",
            "return_flat_raw_top_logprobs_b64",
            "continue_final_message",
            "separate_reasoning",
            "stream_reasoning",
        ),
        Passed(kinds.FLAG),
    ),
    **dict.fromkeys(
        ("max_dynamic_patch", "min_dynamic_patch", "use_audio_in_video", "video_config"), Dropped(_MEDIA_HINT)
    ),
}
GENERATE: Table = {
    **_RESERVED,
    **_ROUTERS,
    "text": Passed(kinds.SHAPED),
    "input_ids": Passed(kinds.SHAPED),
    "input_embeds": Refused(_PROMPT),
    "sampling_params": Passed(kinds.SHAPED),
    "return_logprob": Passed(kinds.FLAG, each=True),
    "logprob_start_len": Passed(integer(-1, kinds.INT32_MAX), each=True),
    "top_logprobs_num": Passed(kinds.TOP_LOGPROBS, each=True),
    "token_ids_logprob": Passed(ids(kinds.MAX_IDS), each=True),
    "return_sampling_mask": Passed(kinds.FLAG, each=True),
    "sampling_logprobs_mode": Passed(kinds.MASK_MODE, each=True),
    "return_hidden_states": Passed(kinds.HIDDEN_STATES, each=True),
    "routed_experts_start_len": Passed(kinds.COUNT),
    "max_thinking_tokens": Passed(kinds.COUNT),
    "watermark": Passed(kinds.NO_WATERMARK, each=True),
    **dict.fromkeys(
        (
            "return_text_in_logprobs",
            "return_flat_raw_top_logprobs",
            "return_flat_raw_output_top_logprobs",
            "return_flat_raw_top_logprobs_b64",
            "return_routed_experts",
            "return_indexer_topk",
            "return_entropy",
            "return_prompt_token_ids",
            "require_reasoning",
            "no_logs",
        ),
        Passed(kinds.FLAG),
    ),
    **dict.fromkeys(
        ("image_data", "video_data", "audio_data", "modalities"),
        Refused(_TEXT_ONLY),
    ),
    **dict.fromkeys(("mm_hashes", "mm_content_hashes"), Refused("it is a key of the prefix cache; " + _TEXT_ONLY)),
    "background": Refused("the request would go on after its client left; remove it"),
    **dict.fromkeys(("multi_item_delimiter_indices", "token_indices_to_pool"), Refused(_SCORING)),
    **dict.fromkeys(("session_id", "conversation_id", "routing_key", "custom_labels", "log_metrics"), Dropped(_HINT)),
    **dict.fromkeys(("use_audio_in_video", "video_config", "images_config"), Dropped(_MEDIA_HINT)),
    **dict.fromkeys(("max_dynamic_patch", "min_dynamic_patch", "mm_processor_kwargs"), Dropped(_MEDIA_HINT)),
    **dict.fromkeys(("image_max_dynamic_patch", "video_max_dynamic_patch"), Dropped(_MEDIA_HINT)),
}
SAMPLING_PARAMS: Table = {
    **_SAMPLING,
    "max_new_tokens": Passed(kinds.COUNT, keeps_null=True),
    "min_new_tokens": Passed(kinds.COUNT),
    "sampling_seed": Passed(kinds.SEED),
    "stream_interval": Passed(integer(1, MAX_STREAM_INTERVAL)),
    "spaces_between_special_tokens": Passed(kinds.FLAG),
    "json_schema": Passed(text(MAX_GRAMMAR)),
    "structural_tag": Passed(text(MAX_GRAMMAR), gate="structural_tag"),
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
# Fields of /generate that may hold one value for all prompts or a list of one each.
PER_PROMPT = tuple(name for name, rule in GENERATE.items() if isinstance(rule, Passed) and rule.each)
