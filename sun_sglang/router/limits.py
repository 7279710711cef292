"""Is a prompt too long? Token ids are counted; text has an upper bound, and beyond it a tokenizer is asked. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from sun_sglang.errors import RequestError
from sun_sglang.router.registry import Limit
from sun_sglang.router.request import Endpoint

# What tokenizers and chat templates add to the text itself. A template can add more (a default system prompt, tool
# instructions); the workers then refuse the request themselves, both of them alike.
SPECIAL_TOKENS = 8
TEMPLATE_TOKENS = 128
MESSAGE_TOKENS = 16


class Size(NamedTuple):
    """How long a prompt is, in tokens: `exact`, or not more than `most`; `tokenize` is what to ask a tokenizer."""

    exact: int | None
    most: int
    tokenize: Mapping[str, Any] | None


def measure(endpoint: Endpoint, body: Mapping[str, Any]) -> Size | None:
    """The size of a single request's prompt; None where nothing can be said (a prompt with images, say)."""
    ids = body.get("prompt") if endpoint is Endpoint.COMPLETIONS else body.get("input_ids")
    if isinstance(ids, list) and ids:
        return Size(len(ids), len(ids), None)
    if endpoint is Endpoint.CHAT:
        return _chat(body)
    text = body.get("prompt" if endpoint is Endpoint.COMPLETIONS else "text")
    if not isinstance(text, str):
        return None
    # byte-level tokenizers make at most one token of a byte
    return Size(None, _bytes(text) + SPECIAL_TOKENS, {"prompt": text})


def check_ids(endpoint: Endpoint, body: Mapping[str, Any], limit: Limit) -> None:
    """Raise RequestError (400) for a token id that the model does not have."""
    name = "prompt" if endpoint is Endpoint.COMPLETIONS else "input_ids"
    ids = body.get(name)
    if isinstance(ids, list) and ids and max(ids) >= limit.vocab:
        raise RequestError(400, f"`{name}` holds {max(ids)}; token ids go from 0 to {limit.vocab - 1}", param=name)


def too_long(tokens: int, limit: Limit, task: str) -> RequestError:
    """The answer to a prompt that some worker of the task could not take."""
    return RequestError(
        400,
        f"the prompt has {tokens} tokens; task `{task}` takes at most {limit.tokens}",
        code="context_length_exceeded",
    )


def _chat(body: Mapping[str, Any]) -> Size | None:
    total = TEMPLATE_TOKENS
    for message in body["messages"]:
        content = message.get("content")
        if isinstance(content, list) and any(not isinstance(p, dict) or p.get("type") != "text" for p in content):
            return None
        total += MESSAGE_TOKENS + len(orjson.dumps(message))
    for name in ("tools", "chat_template_kwargs"):
        if body.get(name):
            total += len(orjson.dumps(body[name]))
    return Size(None, total, body)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
