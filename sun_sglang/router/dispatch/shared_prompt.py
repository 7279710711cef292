"""Answers to one prompt: one prefill puts the prompt into a worker's cache, and the other answers find it there.

Legs that wait together at a busy prefill worker enter one batch and all miss the cache, so a prompt for n answers would
be computed up to n times. The first answer that has its slot is dispatched alone. The others follow once its prompt was
prefilled, to the same prefill worker; their decode workers are selected by the policy. A prompt is shared within one
request only.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from sun_sglang.router.dispatch.attempt import Ticket
from sun_sglang.router.dispatch.dispatcher import Dispatcher
from sun_sglang.router.dispatch.legs.pair_request import PairRequest
from sun_sglang.router.dispatch.pair_response import PairResponse
from sun_sglang.router.workers.worker import Worker

# Prompt tokens that must be saved, of all answers together. A busy prefill worker gains from 512 on; on an idle one the
# wait costs the last answer one hand-over (`bench/router/shared_prompt.py`).
SAVED_TOKENS = 512


class SharedPrompt:
    """The answers of one request to one prompt. Each calls `dispatch` once it has its slot."""

    __slots__ = ("_error", "_holder", "_started", "_waiting")

    def __init__(self) -> None:
        self._started = False
        # name of the prefill worker that has the prompt; empty before
        self._holder = ""
        self._error: BaseException | None = None
        self._waiting: list[asyncio.Future[None]] = []

    async def dispatch(self, dispatcher: Dispatcher, request: PairRequest, ticket: Ticket) -> PairResponse:
        """Return the response to one answer, after the first answer's prefill for every other answer.

        The first caller is the first answer. It holds its slot already, so no answer waits for one in the queue.

        Raises:
            ApiError: the client receives it instead of an answer; for the others also the error of the first answer.
        """
        if self._started:
            await self._wait(ticket)
            return await dispatcher.dispatch(request.after_prefill_on(self._holder), ticket)
        self._started = True
        ticket.on_prefilled = self._release
        try:
            response = await dispatcher.dispatch(request, ticket)
        except BaseException as error:
            self._fail(error)
            raise
        # the decode worker's first bytes may arrive before the prefill worker's reply
        self._release(ticket.tries[-1].pair.prefill)
        return response

    async def _wait(self, ticket: Ticket) -> None:
        if self._error is not None:
            raise self._error
        if self._holder:
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

    def _release(self, worker: Worker) -> None:
        if self._holder:
            return
        self._holder = worker.name
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

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


def share_prompts(requests: Sequence[PairRequest]) -> list[SharedPrompt | None]:
    """Return what each answer shares with others to the same prompt; None for an answer that shares nothing.

    Answers share a prompt if all their fields and namespaces are equal, in a list of prompts too. A prompt whose
    logprobs are wanted is computed for each answer in any case.

    Args:
        requests: one for each answer of a client's request.
    """
    if len(requests) < 2:
        return [None] * len(requests)
    prompts = [(request.own, request.extra_key, request.cache_salt) for request in requests]
    answers = Counter(prompts)
    shared: dict[tuple[bytes, str | None, str | None], SharedPrompt] = {}
    return [
        shared.setdefault(prompt, SharedPrompt()) if _is_worth(request, answers[prompt]) else None
        for prompt, request in zip(prompts, requests, strict=True)
    ]


def _is_worth(request: PairRequest, answers: int) -> bool:
    return not request.needs_prefill and (answers - 1) * request.cost.prefill >= SAVED_TOKENS
