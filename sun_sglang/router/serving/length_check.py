"""The I/O of checking prompts: a worker counts tokens only where the bounds do not settle a prompt's length."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
import orjson

from sun_sglang.contracts.token_count import TOKEN_COUNT_PATH, TokenCount
from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.dispatch.pair_request import worker_model
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
from sun_sglang.router.protocol.worker_replies import error_message, parse_json
from sun_sglang.router.transport.http_session import describe_error, read_at_most
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.worker import Worker

# A worker counts one prompt at a time; the next one is on its way meanwhile. Others wait here, where they hold no copy.
QUESTIONS_PER_WORKER = 2
MAX_REPLY_BYTES = 1 << 16


class CheckedLimits:
    """A request's check, which dispatch repeats where the limits of its task became known or narrower since.

    Attributes:
        limit: what the request was checked against; None while it was not.
    """

    def __init__(self, check: LengthChecker, request: Request, singles: Sequence[SingleRequest]) -> None:
        self.limit: PromptLimits | None = None
        self._check = check
        self._request = request
        self._singles = singles
        self._lock = asyncio.Lock()

    @property
    def holds(self) -> bool:
        """Every worker that may get the request now takes it."""
        now = self._check.limit(self._request.task)
        return self.limit is not None and now is not None and now.covers(self.limit)

    async def again(self) -> None:
        """Check the request against the limits of now; its other answers wait for it.

        Raises:
            RequestError: a prompt is too long, or the model does not have a token id.
            Problem: no worker counted a prompt.
        """
        async with self._lock:
            if not self.holds:
                self.limit = await self._check.check(self._request, self._singles)


class LengthChecker:
    """Refuses what some worker of the task cannot take, before any worker sees it."""

    def __init__(self, session: aiohttp.ClientSession, registry: Registry, log: Log, deadlines: Deadlines) -> None:
        self._session = session
        self._registry = registry
        self._log = log
        self._deadlines = deadlines
        self._asked: Counter[str] = Counter()
        self._slots: dict[str, asyncio.Semaphore] = {}

    async def __call__(self, request: Request, singles: Sequence[SingleRequest]) -> CheckedLimits:
        """Check a request as far as that is possible now; dispatch checks the rest.

        Raises:
            RequestError: a prompt is too long, or the model does not have a token id.
            Problem: no worker counted a prompt.
        """
        checked = CheckedLimits(self, request, singles)
        checked.limit = await self.check(request, singles)
        return checked

    def limit(self, task: str) -> PromptLimits | None:
        """What the workers of a task take, as it was last known; None while it never was."""
        return self._registry.limit(task)

    async def check(self, request: Request, singles: Sequence[SingleRequest]) -> PromptLimits | None:
        """Check every prompt and every token id of a request.

        Returns:
            What it was checked against; None where that is not known, or where no worker is there that could count.

        Raises:
            RequestError: a prompt is too long, or the model does not have a token id.
            Problem: no worker counted a prompt.
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
        return min(workers.values(), key=lambda w: (self._asked[w.name], w.load.total_requests), default=None)

    async def _count(self, worker: Worker, task: str, question: Mapping[str, Any], limit: PromptLimits) -> TokenCount:
        """Ask a worker for the tokens of a prompt, by the task's own tokenizer."""
        slots = self._slots.setdefault(worker.name, asyncio.Semaphore(QUESTIONS_PER_WORKER))
        self._asked[worker.name] += 1
        try:
            async with asyncio.timeout(self._deadlines.token_count), slots:
                return await self._ask(worker, task, question, limit)
        except _UnreadableError as e:
            why = str(e)
        except (aiohttp.ClientError, OSError) as e:
            why = describe_error(e)
        finally:
            self._asked[worker.name] -= 1
        self._log.event("tokenize_failed", task=task, worker=worker.name, why=why)
        message = (
            f"the prompt may be over the {limit.tokens} tokens of task `{task}`, and no worker counted it in time; "
            "try again, or send a shorter prompt"
        )
        raise ApiError(503, message, code="length_unknown")

    async def _ask(self, worker: Worker, task: str, question: Mapping[str, Any], limit: PromptLimits) -> TokenCount:
        url = f"{worker.spec.url}{TOKEN_COUNT_PATH}?most={limit.tokens}"
        body = orjson.dumps({**question, "model": worker_model(task)})
        headers = {**worker.spec.headers, "Content-Type": "application/json"}
        async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
            reply, status = await read_at_most(response, MAX_REPLY_BYTES), response.status
        if status == 400:
            raise ApiError(400, error_message(reply), body=reply)
        parsed = parse_json(reply)
        tokens = parsed.get("tokens") if isinstance(parsed, dict) else None
        if status != 200 or not isinstance(tokens, int):
            raise _UnreadableError(f"POST {TOKEN_COUNT_PATH} answered {status}")
        return TokenCount(tokens, bool(parsed.get("exact")))


class _UnreadableError(Exception):
    """A worker's answer is no count."""
