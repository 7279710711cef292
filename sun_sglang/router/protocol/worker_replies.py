"""Read workers' replies: SGLang's error formats, aborts inside a 200, token counts. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from sun_sglang.router.protocol.nesting import is_too_deep

# the largest count that is believed, as in a worker's card; metrics reject negative counts
MAX_COUNT = 1 << 40


class BadReplyError(Exception):
    """A worker sent data that is not part of an answer. The message names the worker's role and the data."""


class TokenCounts(NamedTuple):
    """Token counts of one answer.

    Attributes:
        prompt: tokens of the prompt.
        completion: tokens of the answer.
        cached: tokens of the prompt that came from a cache.
    """

    prompt: int
    completion: int
    cached: int


def parse_json(body: bytes) -> Any:
    """Return the parsed JSON; None if the body is not JSON, or is nested too deeply to walk by recursion."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return None if is_too_deep(body, parsed) else parsed


def parse_result(data: bytes) -> dict[str, Any]:
    """Return a decode worker's answer, or the data of one of its events, as parsed JSON.

    Raises:
        BadReplyError: the data is not a JSON object, or a field that the router reads has not the type of SGLang's.
    """
    result = parse_json(data)
    if not isinstance(result, dict):
        start = data[:80].decode(errors="replace")
        raise BadReplyError(f"the decode worker sent data that is not a JSON object: {start}")
    choices = result.get("choices")
    if choices is not None and not (isinstance(choices, list) and all(isinstance(c, dict) for c in choices)):
        raise BadReplyError("the decode worker sent `choices` that are not a list of objects")
    for name in ("meta_info", "usage"):
        if not isinstance(result.get(name), dict | None):
            raise BadReplyError(f"the decode worker sent a `{name}` that is not an object")
    return result


def find_abort(body: bytes) -> dict[str, Any] | None:
    """Return the finish reason of a body with status 200 that reports an abort; None for any other body.

    SGLang reports an abort as `meta_info.finish_reason.type` in /generate and as `choices[].finish_reason` elsewhere.
    """
    result = parse_json(body) if b'"abort"' in body else None
    return abort_reason(result) if isinstance(result, dict) else None


def abort_reason(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the finish reason of a parsed result that reports an abort; None for any other.

    The fields of the result may have any type.
    """
    meta, choices = result.get("meta_info"), result.get("choices")
    reason = meta.get("finish_reason") if isinstance(meta, dict) else None
    if isinstance(reason, dict) and reason.get("type") == "abort":
        return reason
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and choice.get("finish_reason") == "abort":
            return {"type": "abort"}
    return None


def error_message(body: bytes, most: int = 500) -> str:
    """Return the message of a worker's error body in any of SGLang's formats, at most `most` characters."""
    parsed = parse_json(body)
    if parsed is None:
        return body[:most].decode(errors="replace")
    error = parsed.get("error", parsed) if isinstance(parsed, dict) else parsed
    message = error.get("message", error) if isinstance(error, dict) else error
    return str(message)[:most]


def error_fields(body: bytes) -> Mapping[str, Any]:
    """Return the object with the message, `param` and `code` of a worker's error body; empty if it has none."""
    parsed = parse_json(body)
    error = parsed.get("error", parsed) if isinstance(parsed, dict) else None
    return error if isinstance(error, dict) else {}


def error_code(body: bytes) -> int | None:
    """Return the status that an error inside a 200 names; None if it names none."""
    code = error_fields(body).get("code")
    return code if isinstance(code, int) and not isinstance(code, bool) else None


def token_counts(result: object) -> TokenCounts:
    """Return the token counts of a result, of a list of results, or of a usage object; zeros if it has none."""
    if isinstance(result, list):
        counts = [token_counts(item) for item in result]
        return TokenCounts(*(sum(column) for column in zip(*counts, strict=True))) if counts else TokenCounts(0, 0, 0)
    if not isinstance(result, dict):
        return TokenCounts(0, 0, 0)
    if isinstance(meta := result.get("meta_info"), dict):
        return TokenCounts(
            count_at(meta, "prompt_tokens"), count_at(meta, "completion_tokens"), count_at(meta, "cached_tokens")
        )
    usage = result.get("usage", result)
    if not isinstance(usage, dict):
        return TokenCounts(0, 0, 0)
    cached = count_at(usage.get("prompt_tokens_details"), "cached_tokens")
    return TokenCounts(count_at(usage, "prompt_tokens"), count_at(usage, "completion_tokens"), cached)


def count_at(source: object, key: str) -> int:
    """Return the count under a key; 0 if it is missing or out of bounds, or if `source` is not an object."""
    value = source.get(key) if isinstance(source, dict) else None
    return value if type(value) is int and 0 <= value <= MAX_COUNT else 0
