"""The replies that differ between SGLang versions, one entry for each version. Pure data.

`Emulation.sglang` selects the entry; nothing else in an emulated worker depends on the version. To add a version, run
`tests/engine/test_emulated.py` on it, and add a field here for each difference that the test reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from sun_sglang.sglang_versions import SglangVersion


@dataclass(frozen=True, slots=True)
class ReplyShapes:
    """The replies of one SGLang version where versions differ.

    Attributes:
        sampling: the sampling parameters of `/generate` (sampling/sampling_params.py).
        schema: the sampling parameters in the schema of `/generate`, in the order of its error message
            (entrypoints/api_contract.py). None where SGLang has no schema: it then answers 500 to a parameter that is
            unknown or has the wrong type.
        roles: roles of chat messages, in the order of the error message (entrypoints/openai/protocol.py).
        null_tool_calls: whether a chat reply without tool calls has `"tool_calls": null`; else the key is absent.
        zero_cached_tokens: whether usage without cached tokens has `"prompt_tokens_details": {"cached_tokens": 0}`;
            else the value is null (entrypoints/openai/usage_processor.py).
        completion_details: whether usage has `completion_tokens_details`, which is null without reasoning tokens.
    """

    sampling: frozenset[str]
    schema: tuple[str, ...] | None
    roles: tuple[str, ...]
    null_tool_calls: bool
    zero_cached_tokens: bool
    completion_details: bool


_SCHEMA = (
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
    sampling=frozenset(_SCHEMA) - {"watermark"},
    schema=None,
    roles=("system", "assistant", "tool", "function", "developer", "latest_reminder", "user"),
    null_tool_calls=True,
    zero_cached_tokens=False,
    completion_details=False,
)
_V22 = replace(_V21, sampling=frozenset(_SCHEMA), schema=_SCHEMA, null_tool_calls=False, zero_cached_tokens=True)
_V23 = replace(
    _V22,
    schema=(*_SCHEMA, "choice"),
    roles=(*_V22.roles[:-1], "root", "user"),
    completion_details=True,
)

SHAPES: Mapping[SglangVersion, ReplyShapes] = MappingProxyType({"0.5.21": _V21, "0.5.22": _V22, "0.5.23": _V23})
