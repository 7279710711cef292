"""The I/O of prompt lengths: a tokenizer is asked only about text that may be too long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
import orjson

from sun_sglang.router.fanout import Single
from sun_sglang.router.legs import wire_model
from sun_sglang.router.limits import check_ids, measure, too_long
from sun_sglang.router.log import Log
from sun_sglang.router.problem import Problem
from sun_sglang.router.registry import Registry
from sun_sglang.router.replies import error_message, parse
from sun_sglang.router.request import Request
from sun_sglang.router.wire import describe

TOKENIZE_TIMEOUT_S = 10.0


class LengthCheck:
    """Refuses prompts that some worker of the task cannot take, before any worker sees them."""

    def __init__(self, session: aiohttp.ClientSession, registry: Registry, log: Log) -> None:
        self._session = session
        self._registry = registry
        self._log = log

    async def __call__(self, request: Request, singles: Sequence[Single]) -> None:
        """Check every prompt of a request.

        Raises:
            RequestError: one is too long, or holds a token id that the model does not have.
        """
        limit = self._registry.limit(request.task)
        if limit is None:
            return
        for single in singles[:: request.n]:
            check_ids(request.endpoint, single.body, limit)
            size = measure(request.endpoint, single.body)
            if size is None:
                continue
            count = size.exact
            if size.tokenize is not None and size.most > limit.tokens:
                count = await self._count(request.task, size.tokenize)
            if count is not None and count > limit.tokens:
                raise too_long(count, limit, request.task)

    async def _count(self, task: str, what: Mapping[str, Any]) -> int | None:
        """Tokens by the task's own tokenizer; None where no worker can say (the workers then judge by themselves)."""
        pairs = self._registry.usable(task)
        if not pairs:
            return None
        worker = min((pair.prefill for pair in pairs), key=lambda w: w.load_requests)
        body = orjson.dumps({**what, "model": wire_model(task)})
        headers = {**worker.spec.headers, "Content-Type": "application/json"}
        timeout = aiohttp.ClientTimeout(total=TOKENIZE_TIMEOUT_S)
        url = worker.spec.url + "/tokenize"
        try:
            async with self._session.post(url, data=body, headers=headers, timeout=timeout) as response:
                reply, status = await response.read(), response.status
        except (aiohttp.ClientError, OSError) as e:
            self._log.event("tokenize_failed", task=task, worker=worker.name, why=describe(e))
            return None
        if status == 400:
            raise Problem(400, error_message(reply), body=reply)
        parsed = parse(reply)
        count = parsed.get("count") if isinstance(parsed, dict) else None
        if status != 200 or not isinstance(count, int):
            self._log.event("tokenize_failed", task=task, worker=worker.name, why=f"answered {status}")
            return None
        return count
