"""Where requests go, and what they contain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import orjson

from sun_sglang.bench.load.errors import BenchError
from sun_sglang.bench.load.workload.planned import Chat, PlannedRequest


@dataclass(frozen=True)
class Endpoint:
    """A server with OpenAI's API.

    Attributes:
        url: its base URL, without `/v1`.
        headers: headers of every request, such as the API key.
        ssl: for aiohttp: how the server's certificate is checked.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    ssl: aiohttp.Fingerprint | bool = True


@dataclass(frozen=True)
class Route:
    """How the requests of one task are sent.

    Attributes:
        endpoint: where they go.
        model: their `model`; None for the task's name.
        fields: more fields of their bodies, such as the name of an adapter.
    """

    endpoint: Endpoint
    model: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


def client_session(*, timeout: float) -> aiohttp.ClientSession:
    """Return a new session for any endpoints, without a limit on connections; the caller closes it.

    Args:
        timeout: seconds from the start of a request to the end of its answer.
    """
    return aiohttp.ClientSession(
        # uvicorn closes a connection that is idle for 5 s; a request that is lost with one would count as failed
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=2.0),
        timeout=aiohttp.ClientTimeout(total=timeout),
        # a server that compresses a stream may hold tokens back
        headers={"Content-Type": "application/json", "Accept-Encoding": "identity"},
    )


class Prepared(NamedTuple):
    """A request, ready to be sent.

    Attributes:
        request: the planned request.
        path: its path at the server.
        body: its body, JSON.
    """

    request: PlannedRequest
    path: str
    body: bytes


def base_url(url: str) -> str:
    """Return the base of a server's URL, as OpenAI's clients take it or without `/v1`.

    Raises:
        BenchError: it is no URL of HTTP.
    """
    parts = urlsplit(url)
    try:
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment or "@" in parts.netloc or not url.isprintable():
        shown = "this" if "@" in url else repr(url)
        raise BenchError(f"--url: {shown} is not the URL of a server; write it as http://HOST:PORT")
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def prepare(request: PlannedRequest, model: str | None = None, fields: Mapping[str, Any] | None = None) -> Prepared:
    """Return the streamed, greedy request that generates exactly the planned number of tokens.

    The server counts the tokens: each event of the stream has the number of tokens so far (`continuous_usage_stats`,
    which SGLang, vLLM and the router accept), and a last event the usage of the whole request. A call of a session also
    asks for the ids of the answer's tokens (`return_token_ids`, which the same three accept), since the next call
    continues them.

    Args:
        request: the planned request.
        model: its `model`; None for the task's name.
        fields: more fields of its body.
    """
    common: dict[str, Any] = {
        "model": request.task if model is None else model,
        "max_tokens": request.output_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        **(fields or {}),
    }
    if isinstance(request.prompt, Chat):
        return Prepared(request, "/v1/chat/completions", orjson.dumps({**common, "messages": request.prompt.messages}))
    if request.session is None:
        return Prepared(request, "/v1/completions", orjson.dumps({**common, "prompt": request.prompt}))
    body = orjson.dumps({**common, "return_token_ids": True, "prompt": request.prompt})
    return Prepared(request, "/v1/completions", body)
