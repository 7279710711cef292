"""A request that is sent to the router and to a plain SGLang server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

MODEL = "own"
CACHED = frozenset(("cached_tokens", "cached_tokens_details", "prompt_tokens_details"))


class Case(NamedTuple):
    """One request.

    Attributes:
        name: unique among all cases.
        path: the endpoint.
        body: JSON, or raw bytes.
        method: the HTTP method.
        headers: headers besides the content type.
        times: how often the request is sent, one after another; the last replies are compared.
        unequal: names of members that depend on the order in which the answers of one request are computed.
    """

    name: str
    path: str
    body: Mapping[str, Any] | bytes
    method: str = "POST"
    headers: Mapping[str, str] = {"Content-Type": "application/json"}
    times: int = 1
    unequal: frozenset[str] = frozenset()


def whole_and_streamed(path: str, bodies: Mapping[str, Mapping[str, Any]]) -> list[Case]:
    """Return two cases for each body: a whole answer and a streamed one."""
    streamed = {f"{name}, streamed": {**body, "stream": True} for name, body in bodies.items()}
    return [*apart(path, bodies), *apart(path, streamed)]


def apart(path: str, bodies: Mapping[str, Mapping[str, Any]]) -> list[Case]:
    """Return one case for each body, with a prefix cache and an id of its own: no answer depends on the order."""
    cases: list[Case] = []
    for name, body in bodies.items():
        full = f"{path} {name}"
        own = {"rid": full} if isinstance(body.get("rid"), str) else {}
        unequal = CACHED if _has_several(body) else frozenset[str]()
        cases.append(Case(full, path, {"model": MODEL, "extra_key": full, **body, **own}, unequal=unequal))
    return cases


def once(path: str, bodies: Mapping[str, Mapping[str, Any] | bytes]) -> list[Case]:
    """Return one case for each body: raw bytes as they are, and others as `apart` does."""
    raw = [Case(f"{path} {name}", path, body) for name, body in bodies.items() if isinstance(body, bytes)]
    return raw + apart(path, {name: body for name, body in bodies.items() if not isinstance(body, bytes)})


def _has_several(body: Mapping[str, Any]) -> bool:
    """Return whether a body asks for several answers to one prompt."""
    params = body.get("sampling_params")
    return any(isinstance(given, dict) and given.get("n") not in (None, 1) for given in (body, params))
