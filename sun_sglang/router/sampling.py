"""Sampling parameters of /generate, name by name. Pure.

SGLang takes this object unchecked from the HTTP server to its schedulers, where a wrong type ends the whole server
(srt/sampling/sampling_params.py: SamplingParams, decoded by msgspec) and an unknown name is a 500. The OpenAI endpoints
check most types themselves, but no ranges: a `top_k` of 64 bits ends the prefill server.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from sun_sglang.errors import RequestError

# srt/sampling/sampling_params.py
MAX_STOPS = 32
MAX_STOP_REGEX = 256
_INT32, _INT64 = 1 << 31, 1 << 63


def _integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -_INT32 <= value < _INT32


def _seed(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -_INT64 <= value < _INT64


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _boolean(value: object) -> bool:
    return isinstance(value, bool)


def _text(value: object) -> bool:
    return isinstance(value, str)


def _texts(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and len(value) <= MAX_STOPS and all(map(_text, value)))


def _ids(value: object) -> bool:
    return isinstance(value, list) and all(_integer(i) and i >= 0 for i in value)


def _object(value: object) -> bool:
    return isinstance(value, dict)


def _biases(value: object) -> bool:
    return isinstance(value, dict) and all(_number(bias) for bias in value.values())


def _custom(value: object) -> bool:
    return (
        isinstance(value, dict) and not any(key.startswith("__") for key in value) and all(map(_flat, value.values()))
    )


def _flat(value: object) -> bool:
    items = value if isinstance(value, list) else value.values() if isinstance(value, dict) else [value]
    return not any(isinstance(item, list | dict) for item in items)


_Rule = tuple[Callable[[object], bool], str]
_INTEGER: _Rule = (_integer, "an integer of 32 bits")
_SEED: _Rule = (_seed, "an integer of 64 bits")
_NUMBER: _Rule = (_number, "a number")
_BOOLEAN: _Rule = (_boolean, "true or false")
_TEXT: _Rule = (_text, "a string")
_TEXTS: _Rule = (_texts, f"a string, or a list of at most {MAX_STOPS}")
_CUSTOM: _Rule = (_custom, "an object of plain values, lists and objects, with no name that starts with `__`")

_RULES: Mapping[str, _Rule] = {
    "max_new_tokens": _INTEGER,
    "min_new_tokens": _INTEGER,
    "n": _INTEGER,
    "beam_width": _INTEGER,
    "top_k": _INTEGER,
    "sampling_seed": _SEED,
    "stream_interval": _INTEGER,
    "temperature": _NUMBER,
    "top_p": _NUMBER,
    "min_p": _NUMBER,
    "frequency_penalty": _NUMBER,
    "presence_penalty": _NUMBER,
    "repetition_penalty": _NUMBER,
    "ignore_eos": _BOOLEAN,
    "skip_special_tokens": _BOOLEAN,
    "spaces_between_special_tokens": _BOOLEAN,
    "no_stop_trim": _BOOLEAN,
    "json_schema": _TEXT,
    "regex": _TEXT,
    "ebnf": _TEXT,
    "structural_tag": _TEXT,
    "stop": _TEXTS,
    "stop_regex": _TEXTS,
    "stop_token_ids": (_ids, "a list of token ids"),
    "logit_bias": (_biases, "an object of numbers"),
    "custom_params": _CUSTOM,
}


_OPENAI: Mapping[str, _Rule] = {
    "max_tokens": _INTEGER,
    "max_completion_tokens": _INTEGER,
    "min_tokens": _INTEGER,
    "seed": _SEED,
    "response_format": (_object, "an object"),
}
_SAME = (
    "custom_params",
    "logit_bias",
    "stop",
    "stop_regex",
    "stop_token_ids",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
)


def check_sampling_params(params: Mapping[str, Any]) -> None:
    """Check /generate's `sampling_params`.

    Raises:
        RequestError: an unknown name, or a value of the wrong type.
    """
    for name, value in params.items():
        where = f"sampling_params.{name}"
        rule = _RULES.get(name)
        if rule is None:
            raise RequestError(400, f"`{where}` is not a sampling parameter; known: {', '.join(_RULES)}", param=where)
        _apply(rule, value, where)
    _compile(params.get("stop_regex"), "sampling_params.stop_regex")


def check_openai_sampling(body: Mapping[str, Any]) -> None:
    """Check the sampling parameters of the OpenAI endpoints.

    Raises:
        RequestError: a value that would end in a 500.
    """
    for name in _SAME:
        _apply(_RULES[name], body.get(name), name)
    for name, rule in _OPENAI.items():
        _apply(rule, body.get(name), name)
    _compile(body.get("stop_regex"), "stop_regex")


def _apply(rule: _Rule, value: object, where: str) -> None:
    holds, kind = rule
    if value is not None and not holds(value):
        raise RequestError(400, f"`{where}` has to be {kind}", param=where)


def _compile(patterns: str | list[str] | None, where: str) -> None:
    for pattern in [patterns] if isinstance(patterns, str) else patterns or ():
        if len(pattern) > MAX_STOP_REGEX:
            raise RequestError(400, f"`{where}` is over {MAX_STOP_REGEX} characters", param=where)
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as e:
            raise RequestError(400, f"`{where}` is no regular expression: {e}", param=where) from e
