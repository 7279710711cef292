"""The schema check of `/generate` bodies, which SGLang has since 0.5.22 (entrypoints/api_contract.py). Pure.

Checks the sampling parameters only. FastAPI has refused most other values of a wrong type before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sun_sglang.emulator.protocol.errors import SchemaError


def check_schema(params: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Raise unless every sampling parameter is in the schema and has the right type.

    Args:
        params: the body's sampling parameters; null is valid for every type.
        names: the parameters in the schema.

    Raises:
        SchemaError: names the first wrong parameter.
    """
    for name, value in params.items():
        if name not in names:
            listed = ", ".join(f"`{n}`" for n in names)
            raise SchemaError(f"unknown field `{name}`, expected one of {listed}")
        if value is not None and name in _CHECKS:
            _CHECKS[name](value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _require(ok: bool, value: object, expected: str) -> None:
    if not ok:
        raise SchemaError(f"invalid type: {_described(value)}, expected {expected}")


def _number(value: object) -> None:
    _require(_is_number(value), value, "f64")


def _integer(value: object) -> None:
    _require(_is_integer(value), value, "i64")


def _boolean(value: object) -> None:
    _require(isinstance(value, bool), value, "a boolean")


def _string(value: object) -> None:
    _require(isinstance(value, str), value, "a string")


def _strings(value: object) -> None:
    _sequence(value, _string)


def _integers(value: object) -> None:
    _sequence(value, _integer)


def _sequence(value: object, check: Callable[[object], None]) -> None:
    _require(isinstance(value, list), value, "a sequence")
    assert isinstance(value, list)
    for item in value:
        check(item)


def _string_or_strings(value: object) -> None:
    if isinstance(value, list):
        _strings(value)
    else:
        _require(isinstance(value, str), value, "a value or an array of values for StringOrList")


def _watermark(value: object) -> None:
    _require(isinstance(value, dict), value, "struct WatermarkRequestConfig")


def _numbers_by_name(value: object) -> None:
    _require(isinstance(value, dict), value, "a map")
    assert isinstance(value, dict)
    for item in value.values():
        _number(item)


_CHECKS: Mapping[str, Callable[[object], None]] = {
    **dict.fromkeys(("temperature", "top_p", "min_p"), _number),
    **dict.fromkeys(("frequency_penalty", "presence_penalty", "repetition_penalty"), _number),
    **dict.fromkeys(("max_new_tokens", "min_new_tokens", "top_k", "n", "beam_width"), _integer),
    **dict.fromkeys(("stream_interval", "sampling_seed"), _integer),
    **dict.fromkeys(("json_schema", "regex", "ebnf", "structural_tag"), _string),
    **dict.fromkeys(("ignore_eos", "skip_special_tokens"), _boolean),
    **dict.fromkeys(("spaces_between_special_tokens", "no_stop_trim"), _boolean),
    **dict.fromkeys(("stop", "stop_regex"), _string_or_strings),
    "stop_token_ids": _integers,
    "choice": _strings,
    "logit_bias": _numbers_by_name,
    "watermark": _watermark,
}


def _described(value: object) -> str:
    """Return the name of a value in the error messages of SGLang's schema."""
    match value:
        case None:
            return "null"
        case bool():
            return f"boolean `{str(value).lower()}`"
        case int():
            return f"integer `{value}`"
        case float():
            return f"floating point `{value}`"
        case str():
            return f'string "{value}"'
        case list():
            return "sequence"
        case _:
            return "map"
