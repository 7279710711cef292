"""Answers to one prompt: one prefill puts the prompt into a worker's cache, and the other answers find it there.

Legs that wait together at a busy prefill worker enter one batch and all miss the cache, so a prompt for n answers would
be computed up to n times. The first answer that has its slot is dispatched alone. The others follow once its prompt was
prefilled, to the same prefill worker; their decode workers are selected by the policy. A prompt is shared within one
request only.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter
from collections.abc import Sequence

from sun_sglang.router.dispatch.attempt import Attempt, Ticket
from sun_sglang.router.dispatch.dispatcher import Dispatcher
from sun_sglang.router.dispatch.legs.pair_request import PairRequest
from sun_sglang.router.dispatch.pair_response import Answer
from sun_sglang.router.scheduling.cost import uncached_tokens
from sun_sglang.router.workers.worker import Worker
from sun_sglang.router.workers.worker_paths import Pair

# Prompt tokens that must be saved, of all answers together. A busy prefill worker gains from 512 on; on an idle one the
# wait costs the last answer one hand-over (`bench/router/shared_prompt.py`).
SAVED_TOKENS = 512


class SharedPrompt:
    """The answers of one request to one prompt. Each calls `dispatch` once it has its slot.

    Args:
        group: a number that all of its answers have.
    """

    __slots__ = ("_error", "_group", "_holder", "_prefilled", "_started", "_waiting")

    def __init__(self, group: int = 0) -> None:
        self._group = group
        self._started = False
        self._prefilled = False
        # incarnation of the prefill worker that computed the prompt last; empty if it keeps no prompts
        self._holder = ""
        self._error: BaseException | None = None
        self._waiting: list[asyncio.Future[None]] = []

    async def dispatch(self, dispatcher: Dispatcher, request: PairRequest, ticket: Ticket) -> Answer:
        """Return the response to one answer, after the first answer's prefill for every other answer.

        The first caller is the first answer. It holds its slot already, so no answer waits for one in the queue. A
        later answer whose worker left is computed on another one, which then has the prompt.

        Raises:
            ApiError: the client receives it instead of an answer; for the others also the error of the first answer.
        """
        ticket.on_prefilled = self._release
        if self._started:
            await self._wait(ticket)
            return await dispatcher.dispatch(request.sharing(self._group, self._holder), ticket)
        self._started = True
        try:
            response = await dispatcher.dispatch(request.sharing(self._group, ""), ticket)
        except BaseException as error:
            self._fail(error)
            raise
        if not self._prefilled:
            # the decode worker's first bytes may arrive before the prefill worker's reply
            self._release(ticket.tries[-1])
        return response

    async def _wait(self, ticket: Ticket) -> None:
        if self._error is not None:
            raise self._error
        if self._prefilled:
            return
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        ticket.start_wait(waiting)
        try:
            await waiting
        finally:
            ticket.end_wait(ticket.queued)
            if waiting.done() and not waiting.cancelled():
                # mark the exception as retrieved: a cancelled answer does not read it
                waiting.exception()

    def _release(self, attempt: Attempt) -> None:
        worker, self._prefilled = attempt.pair.prefill, True
        self._holder = attempt.incarnations["prefill"] if _keeps_prompts(worker) else ""
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        self._waiting.clear()

    def _fail(self, error: BaseException) -> None:
        """End the wait of the other answers: one failed answer fails its request."""
        self._error = error
        for waiting in self._waiting:
            if waiting.done():
                continue
            if isinstance(error, Exception):
                waiting.set_exception(error)
            else:
                waiting.cancel()


def share_prompts(requests: Sequence[PairRequest], pairs: Sequence[Pair]) -> list[SharedPrompt | None]:
    """Return what each answer shares with others to the same prompt; None for an answer that shares nothing.

    Answers share a prompt if all their fields and namespaces are equal, in a list of prompts too. A prompt whose
    logprobs are wanted is computed for each answer in any case, and so is every prompt on workers without a cache.

    Args:
        requests: one for each answer of a client's request.
        pairs: the usable pairs of its task.
    """
    found: list[SharedPrompt | None] = [None] * len(requests)
    if len(requests) < 2:
        return found
    workers = {pair.prefill for pair in pairs}
    if not all(map(_keeps_prompts, workers)):
        return found
    page = max((worker.card.identity.page_size for worker in workers if worker.card is not None), default=1)
    prompts = [(request.own, request.extra_key, request.cache_salt) for request in requests]
    answers = Counter(prompts)
    shared: dict[tuple[bytes, str | None, str | None], SharedPrompt] = {}
    for i, (prompt, request) in enumerate(zip(prompts, requests, strict=True)):
        if prompt in shared:
            found[i] = shared[prompt]
        elif _is_worth(request, answers[prompt], page):
            found[i] = shared[prompt] = SharedPrompt(zlib.crc32(request.own, zlib.crc32(request.shared)))
    return found


def _is_worth(request: PairRequest, answers: int, page: int) -> bool:
    saved = request.cost.prefill - uncached_tokens(request.cost.prefill, page)
    return not request.needs_prefill and (answers - 1) * saved >= SAVED_TOKENS


def _keeps_prompts(worker: Worker) -> bool:
    return worker.card is not None and worker.card.caches_prompts
