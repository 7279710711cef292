"""Read the fields of a request of another API. Every error names the field. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sun_sglang.errors import RequestError
from sun_sglang.router.protocol.fields import table
from sun_sglang.router.protocol.fields.check import checked_value
from sun_sglang.router.protocol.fields.value_types import ValueType
from sun_sglang.router.protocol.json_body import json_object
from sun_sglang.router.protocol.nesting import MAX_DEPTH, is_too_deep

# A translation puts values into more objects than the client did, and events into more than a whole answer.
ADDED_DEPTH = 8
# fields of a chat completion that every API takes, and those whose refusal a client must receive
_PASSED = (
    *("model", "stream", "rid", "extra_key", "cache_salt", "chat_template_kwargs", "separate_reasoning"),
    *("temperature", "top_p", "top_k", "min_p", "seed", "min_tokens", "logit_bias", "stop_token_ids", "ignore_eos"),
    *("frequency_penalty", "presence_penalty", "repetition_penalty", "no_stop_trim", "skip_special_tokens"),
    *("regex", "ebnf", "stop_regex"),
    *(name for name, rule in table.CHAT.items() if isinstance(rule, table.Refused)),
)


def parse_object(raw: bytes) -> dict[str, Any]:
    """Return the JSON object of a body.

    Raises:
        RequestError: 400, the body is no JSON object, or is nested too deeply.
    """
    body = json_object(raw)
    wrapped: Any = body
    for _ in range(ADDED_DEPTH):
        wrapped = [wrapped]
    if is_too_deep(b"[" * ADDED_DEPTH + raw, wrapped):
        message = f"the body is nested deeper than {MAX_DEPTH - ADDED_DEPTH} levels"
        raise RequestError(400, message, code="invalid_json")
    return body


def common_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a request that have the same name and meaning in a chat completion."""
    return {name: given[name] for name in _PASSED if given.get(name) is not None}


def invalid(where: str, must: str) -> RequestError:
    """Return the error for a field: "`where` must be ..."."""
    return RequestError(400, f"`{where}` must be {must}", param=where)


def unsupported(where: str, why: str) -> RequestError:
    """Return the error for a field that this server does not serve."""
    return RequestError(400, f"`{where}` is not supported: {why}", param=where, code="unsupported_value")


def refuse(given: Mapping[str, Any], reasons: Mapping[str, str]) -> None:
    """Refuse fields. Values that mean no value (null, false, empty) are ignored.

    Args:
        given: the client's fields.
        reasons: why each is refused.

    Raises:
        RequestError: 400, a field of `reasons` has a value.
    """
    for name, why in reasons.items():
        if given.get(name):
            raise unsupported(name, why)


def refuse_format_with_tools(body: Mapping[str, Any], where: str) -> None:
    """Refuse a format of the answer together with tools that the model may call.

    SGLang holds the whole answer to the format, so the model calls no tool; parsers that read any JSON as a call (such
    as `llama3`) then drop the answer, and the client would receive an empty one.

    Args:
        body: the chat completion.
        where: the client's field of the format.

    Raises:
        RequestError: 400, the request has both.
    """
    if body.get("response_format") and body.get("tools") and body.get("tool_choice") != "none":
        message = (
            f"`{where}` cannot be combined with `tools` that the model may call: the whole answer follows the format, "
            "so it calls none; remove `tools`, or set `tool_choice` to none"
        )
        raise RequestError(400, message, param=where, code="unsupported_value")


def checked(given: Mapping[str, Any], name: str, type_: ValueType) -> Any:
    """Return a field's value, converted as in a chat completion; None if it is absent or null.

    Raises:
        RequestError: 400, the value is not of the type.
    """
    value = given.get(name)
    return None if value is None else checked_value(name, type_, value, lax=True)


def text_of(value: object, where: str) -> str:
    """Return a string."""
    if not isinstance(value, str):
        raise invalid(where, "a string")
    return value


def object_of(value: object, where: str) -> dict[str, Any]:
    """Return an object."""
    if not isinstance(value, dict):
        raise invalid(where, "an object")
    return value


def objects_of(value: object, where: str) -> list[dict[str, Any]]:
    """Return a list of objects."""
    if not isinstance(value, list) or not {dict}.issuperset(map(type, value)):
        raise invalid(where, "a list of objects")
    return value


def joined_text(value: object, where: str, kinds: Iterable[str], why: str, first: int = 0) -> str:
    """Return the text of a string, or of a list of parts that contain text.

    Args:
        value: the content.
        where: its name.
        kinds: the types of parts with the member `text`.
        why: completes the error for another type of part.
        first: the place of the first part in the client's list.

    Raises:
        RequestError: 400, a part has another type, or no text.
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not {dict}.issuperset(map(type, value)):
        raise invalid(where, "a string, or a list of parts with text")
    texts = []
    for i, part in enumerate(value, first):
        if part.get("type") not in kinds:
            raise unsupported(f"{where}[{i}].type", f"{part.get('type')!r}; {why}")
        texts.append(text_of(part.get("text"), f"{where}[{i}].text"))
    return "".join(texts)
