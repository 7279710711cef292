"""Send every case to both servers, several at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import httpx

from tests.engine.differences.case import Case
from tests.engine.differences.comparison import Reply, differences

AT_ONCE = 12
TIMEOUT_S = 180.0


async def compare(router: str, plain: str, cases: Sequence[Case]) -> dict[str, list[str]]:
    """Return the differences between two servers' replies by the case's name; cases without any are left out.

    Args:
        router: the router's URL.
        plain: the URL of a plain SGLang server.
        cases: in any order; each has its own names in caches.
    """
    pairs = await replies(router, plain, cases)
    found = {
        case.name: differences(*pair, ids=ids_of(case), unequal=case.unequal)
        for case, pair in zip(cases, pairs.values(), strict=True)
    }
    return {name: lines for name, lines in found.items() if lines}


async def replies(router: str, plain: str, cases: Sequence[Case]) -> dict[str, tuple[Reply, Reply]]:
    """Return both servers' replies by the case's name."""
    slots = asyncio.Semaphore(AT_ONCE)
    # SGLang closes a connection after some errors: none is used twice
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(timeout=TIMEOUT_S, limits=limits) as client:

        async def both(case: Case) -> tuple[Reply, Reply]:
            async with slots:
                ours, theirs = await asyncio.gather(*(send(client, url, case) for url in (router, plain)))
                return ours, theirs

        pairs = await asyncio.gather(*map(both, cases))
    return {case.name: pair for case, pair in zip(cases, pairs, strict=True)}


async def send(client: httpx.AsyncClient, url: str, case: Case) -> Reply:
    """Send a case as often as it states, and return the last reply; one that breaks off has its status and `broken`."""
    content = case.body if isinstance(case.body, bytes) else json.dumps(case.body).encode()
    for _ in range(case.times):
        reply = await _send_once(client, url, case, content)
    return reply


async def _send_once(client: httpx.AsyncClient, url: str, case: Case, content: bytes) -> Reply:
    async with client.stream(case.method, url + case.path, content=content, headers=dict(case.headers)) as reply:
        kind = reply.headers.get("content-type", "").partition(";")[0]
        try:
            return Reply(reply.status_code, kind, await reply.aread())
        except httpx.RemoteProtocolError:
            return Reply(reply.status_code, "broken off", b"")


def ids_of(case: Case) -> tuple[str, ...]:
    """Return the ids that a case's body gives its answers."""
    rid = None if isinstance(case.body, bytes) else case.body.get("rid")
    return (rid,) if isinstance(rid, str) else ()
