"""Refuse prompts that no worker accepts. I/O: a worker counts tokens where the bounds do not decide.

The bounds are in `protocol/prompt_length.py`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import aiohttp
import orjson

from sun_sglang.contracts.token_count import TOKEN_COUNT_PATH, TokenCount
from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.dispatch.legs.pair_request import worker_model
from sun_sglang.router.dispatch.outcome.worker_refusal import refusal_of
from sun_sglang.router.errors import ApiError
from sun_sglang.router.observability.log import Log
from sun_sglang.router.protocol.fan_out import SingleRequest
from sun_sglang.router.protocol.prompt_length import (
    PromptLimits,
    check_token_ids,
    measure_prompt,
    needs_count,
    prompt_too_long,
)
from sun_sglang.router.protocol.request import Request
from sun_sglang.router.protocol.worker_replies import parse_json
from sun_sglang.router.transport.http_session import describe_error, read_at_most
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.worker import Worker

# A worker counts one prompt at a time, while the next one is on its way. The others wait here, without a copy.
COUNTS_PER_WORKER = 2
MAX_REPLY_BYTES = 1 << 16


class CheckedLimits:
    """The limits that a request was checked against. The dispatcher repeats the check if they became narrower.

    Args:
        check: repeats it.
        request: the client's request.
        singles: one for each answer.

    Attributes:
        limit: the limits; None while they were not known.
    """

    def __init__(self, check: LengthChecker, request: Request, singles: Sequence[SingleRequest]) -> None:
        self.limit: PromptLimits | None = None
        self._check = check
        self._request = request
        self._singles = singles
        self._lock = asyncio.Lock()

    @property
    def holds(self) -> bool:
        """Whether every worker that may receive the request now accepts it."""
        now = self._check.limit(self._request.task)
        return self.limit is not None and now is not None and now.covers(self.limit)

    async def again(self) -> None:
        """Check the request against the limits of now; the request's other answers wait meanwhile.

        Raises:
            RequestError: a prompt is too long, or the model does not have a token id.
            ApiError: 503: no worker counted a prompt.
        """
        async with self._lock:
            if not self.holds:
                self.limit = await self._check.check(self._request, self._singles)


class LengthChecker:
    """Refuses requests that some worker of their task does not accept, before any worker receives them.

    Args:
        session: for token counts.
        registry: the limits, and the workers that count.
        log: reports counts that failed.
        deadlines: `token_count`.
    """

    def __init__(self, session: aiohttp.ClientSession, registry: Registry, log: Log, deadlines: Deadlines) -> None:
        self._session = session
        self._registry = registry
        self._log = log
        self._deadlines = deadlines
        self._pending: Counter[str] = Counter()
        self._slots: dict[str, asyncio.Semaphore] = {}

    async def __call__(self, request: Request, singles: Sequence[SingleRequest]) -> CheckedLimits:
        """Check a request against the limits known now. The dispatcher repeats the check if they change.

        Raises:
            RequestError: a prompt is too long, or the model does not have a token id.
            ApiError: 503: no worker counted a prompt.
        """
        checked = CheckedLimits(self, request, singles)
        checked.limit = await self.check(request, singles)
        return checked

    def limit(self, task: str) -> PromptLimits | None:
        """Return the last known limits of a task; None if they were never known."""
        return self._registry.limit(task)

    async def check(self, request: Request, singles: Sequence[SingleRequest]) -> PromptLimits | None:
        """Check every prompt and every token id of a request.

        Returns:
            The limits of the check; None if they are not known, or if there is no worker to count.

        Raises:
            RequestError: a prompt is too long, or the model does not have a token id.
            ApiError: 503: no worker counted a prompt.
        """
        limit = self._registry.limit(request.task)
        if limit is None:
            return None
        check_token_ids(request.endpoint, request.body, limit)
        for single in singles[:: request.n]:
            size = measure_prompt(request.endpoint, single.body)
            if size is None or not needs_count(size, limit, request.task):
                continue
            worker = self._choose(request.task)
            if worker is None:
                return None
            found = await self._count(worker, request.task, size.question, limit)
            if found.tokens > limit.tokens:
                raise prompt_too_long(
                    f"{found.tokens}" if found.exact else f"more than {limit.tokens}", limit, request.task
                )
        return limit

    def _choose(self, task: str) -> Worker | None:
        workers = {pair.prefill.name: pair.prefill for pair in self._registry.usable(task)}
        return min(workers.values(), key=lambda w: (self._pending[w.name], w.load.total_requests), default=None)

    async def _count(self, worker: Worker, task: str, question: Mapping[str, Any], limit: PromptLimits) -> TokenCount:
        """Request the token count of a prompt from a worker, which has the task's tokenizer."""
        slots = self._slots.setdefault(worker.name, asyncio.Semaphore(COUNTS_PER_WORKER))
        self._pending[worker.name] += 1
        try:
            async with asyncio.timeout(self._deadlines.token_count), slots:
                return await self._request_count(worker, task, question, limit)
        except _NoCountError as e:
            why = str(e)
        except (aiohttp.ClientError, OSError) as e:
            why = describe_error(e)
        finally:
            self._pending[worker.name] -= 1
        self._log.event("tokenize_failed", task=task, worker=worker.name, why=why)
        message = (
            f"the prompt may be over the {limit.tokens} tokens of task `{task}`, and no worker counted it in time; "
            "try again, or send a shorter prompt"
        )
        raise ApiError(503, message, code="length_unknown")

    async def _request_count(
        self, worker: Worker, task: str, question: Mapping[str, Any], limit: PromptLimits
    ) -> TokenCount:
        url = f"{worker.spec.url}{TOKEN_COUNT_PATH}?most={limit.tokens}"
        body = orjson.dumps({**question, "model": worker_model(task)})
        headers = {**worker.spec.headers, "Content-Type": "application/json"}
        # as a stream: aiohttp copies bytes to the socket in one step of the event loop
        async with self._session.post(url, data=BytesIO(body), headers=headers, allow_redirects=False) as response:
            reply, status = await read_at_most(response, MAX_REPLY_BYTES), response.status
        if status == 400:
            raise refusal_of("prefill", status, reply)
        parsed = parse_json(reply)
        tokens = parsed.get("tokens") if isinstance(parsed, dict) else None
        if status != 200 or not isinstance(tokens, int):
            raise _NoCountError(f"POST {TOKEN_COUNT_PATH} answered {status}")
        return TokenCount(tokens, bool(parsed.get("exact")))


class _NoCountError(Exception):
    """A worker's reply contains no count."""
