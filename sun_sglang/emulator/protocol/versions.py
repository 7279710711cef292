"""The reply shapes that differ between versions of SGLang, one entry a version. Pure data.

`Emulation.sglang` chooses the entry; nothing else in an emulated worker depends on the version. To add a version, run
`tests/engine/test_emulated.py` on it, and give each difference that the test shows a field here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from sun_sglang.contracts.sglang_versions import SglangVersion


@dataclass(frozen=True, slots=True)
class ReplyShapes:
    """What one version of SGLang replies where the versions differ.

    Attributes:
        sampling: the sampling parameters of `/generate` (sampling/sampling_params.py).
        contract: the sampling parameters that the schema of `/generate` has, in the order of its error message
            (entrypoints/api_contract.py); None where a body is not checked against a schema, so that a parameter that
            is unknown or of the wrong type is an internal error.
        roles: roles of chat messages, in the order of the error message (entrypoints/openai/protocol.py).
        null_tool_calls: an answer of a chat without tool calls has `"tool_calls": null`, and else no such key.
        zero_cached_tokens: usage without cached tokens has `"prompt_tokens_details": {"cached_tokens": 0}`, and else
            null (entrypoints/openai/usage_processor.py).
        completion_details: usage has `completion_tokens_details`, null without reasoning tokens.
        first_ids_row: a decode worker reports null among `output_token_ids_logprobs` for the first token, and else
            nothing, so that the list is one short (disaggregation/decode.py).
    """

    sampling: frozenset[str]
    contract: tuple[str, ...] | None
    roles: tuple[str, ...]
    null_tool_calls: bool
    zero_cached_tokens: bool
    completion_details: bool
    first_ids_row: bool


_CONTRACT = (
    "max_new_tokens",
    "stop",
    "stop_token_ids",
    "stop_regex",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "min_new_tokens",
    "n",
    "json_schema",
    "regex",
    "ebnf",
    "structural_tag",
    "ignore_eos",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "no_stop_trim",
    "stream_interval",
    "logit_bias",
    "sampling_seed",
    "custom_params",
    "beam_width",
    "watermark",
)

_V21 = ReplyShapes(
    sampling=frozenset(_CONTRACT) - {"watermark"},
    contract=None,
    roles=("system", "assistant", "tool", "function", "developer", "latest_reminder", "user"),
    null_tool_calls=True,
    zero_cached_tokens=False,
    completion_details=False,
    first_ids_row=False,
)
_V22 = replace(_V21, sampling=frozenset(_CONTRACT), contract=_CONTRACT, null_tool_calls=False, zero_cached_tokens=True)
_V23 = replace(
    _V22,
    contract=(*_CONTRACT, "choice"),
    roles=(*_V22.roles[:-1], "root", "user"),
    completion_details=True,
    first_ids_row=True,
)

SHAPES: Mapping[SglangVersion, ReplyShapes] = MappingProxyType({"0.5.21": _V21, "0.5.22": _V22, "0.5.23": _V23})
