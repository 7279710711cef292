"""Reading what workers say: SGLang's error shapes, aborts in disguise, token counts. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson


class Tokens(NamedTuple):
    """Token counts of one answer; `cached` prompt tokens were not computed again."""

    prompt: int
    completion: int
    cached: int


def parse(body: bytes) -> Any:
    """The JSON in `body`; None if it is no JSON."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def finish_abort(body: bytes) -> dict[str, Any] | None:
    """The finish reason of a result that is an abort in disguise (status 200), or None.

    SGLang reports it as `meta_info.finish_reason.type` in /generate and as `choices[].finish_reason` elsewhere.
    """
    if b'"abort"' not in body:
        return None
    result = parse(body)
    if not isinstance(result, dict):
        return None
    reason = (result.get("meta_info") or {}).get("finish_reason")
    if isinstance(reason, dict) and reason.get("type") == "abort":
        return reason
    if any(choice.get("finish_reason") == "abort" for choice in result.get("choices") or ()):
        return {"type": "abort"}
    return None


def error_message(body: bytes) -> str:
    """The message in a worker's error body, whichever of SGLang's shapes it has; at most 500 characters."""
    parsed = parse(body)
    if parsed is None:
        return body[:500].decode(errors="replace")
    error = parsed.get("error", parsed) if isinstance(parsed, dict) else parsed
    message = error.get("message", error) if isinstance(error, dict) else error
    return str(message)[:500]


def error_code(body: bytes) -> int | None:
    """The status in an error that came inside a 200, if it has one."""
    parsed = parse(body)
    error = parsed.get("error", parsed) if isinstance(parsed, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and not isinstance(code, bool) else None


def tokens(result: object) -> Tokens:
    """Token counts of a result, a stream's last chunk, or a bare usage object; zeros where it has none."""
    if isinstance(result, list):
        counts = [tokens(item) for item in result]
        return Tokens(*(sum(column) for column in zip(*counts, strict=True))) if counts else Tokens(0, 0, 0)
    if not isinstance(result, dict):
        return Tokens(0, 0, 0)
    if isinstance(meta := result.get("meta_info"), dict):
        return Tokens(_int(meta, "prompt_tokens"), _int(meta, "completion_tokens"), _int(meta, "cached_tokens"))
    usage = result.get("usage", result)
    if not isinstance(usage, dict):
        return Tokens(0, 0, 0)
    details = usage.get("prompt_tokens_details") or {}
    return Tokens(_int(usage, "prompt_tokens"), _int(usage, "completion_tokens"), _int(details, "cached_tokens"))


def _int(source: dict[str, Any], key: str) -> int:
    value = source.get(key)
    return value if isinstance(value, int) else 0
