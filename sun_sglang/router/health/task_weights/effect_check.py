"""Measure the effect of weights on a worker, and compare it with the effect that it should have."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection
from typing import NamedTuple

from sun_sglang.contracts.module import TaskWeights
from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.dispatch.attempt import Ticket
from sun_sglang.router.dispatch.dispatcher import Dispatcher
from sun_sglang.router.dispatch.pair_response import PairResponse
from sun_sglang.router.errors import ApiError
from sun_sglang.router.health.task_weights.effect_canary import (
    fingerprint_of,
    make_effect_canary,
    prompt_logprobs,
    prompt_of,
)
from sun_sglang.router.protocol.worker_replies import BadReplyError
from sun_sglang.router.task_weights.effect import Logprobs, effect_fault, effect_of, recorded_effect
from sun_sglang.router.task_weights.kind import kind_of
from sun_sglang.router.workers.worker_paths import Pair


class _Start(NamedTuple):
    """A worker while its module stays: weights may be updated without a restart."""

    worker: str
    incarnation: str
    module: str


class _Measured(NamedTuple):
    """The first effect of weights without a fingerprint, and the present workers on which it was measured.

    Once all of these workers have left or restarted, nothing vouches for it.
    """

    effect: Logprobs
    workers: set[str]


class _MeasurementError(Exception):
    """A worker returned no log probabilities. The message is a sentence for people."""


class EffectCheck:
    """Sends the canaries of the weights of tasks.

    The base's log probabilities are measured once for each start of a worker and each prompt. Where no fingerprint was
    recorded, the first worker's effect is what the others are compared with, while one with that effect is present.

    Args:
        dispatcher: sends the canaries.
        deadlines: the limit for a canary.
    """

    def __init__(self, dispatcher: Dispatcher, deadlines: Deadlines) -> None:
        self._dispatcher = dispatcher
        self._deadlines = deadlines
        self._rng = random.Random()
        self._bases: dict[_Start, dict[tuple[int, ...], asyncio.Future[Logprobs]]] = {}
        self._first: dict[TaskWeights, _Measured] = {}

    async def fault(self, pair: Pair) -> str:
        """Return why the weights of a pair are not in effect on its prefill worker; empty if they are.

        Args:
            pair: a proven path, with the weights.
        """
        assert pair.weights is not None
        assert pair.prefill.card is not None, "only admitted workers get canaries"
        weights, worker, incarnation = pair.weights, pair.prefill, pair.prefill.incarnation
        kind, tokens = kind_of(weights), prompt_of(weights, pair.prefill.card.identity.vocab_size)
        try:
            base = await self._base(pair, tokens)
            effect = effect_of(await self._measure(pair, tokens), base)
        except _MeasurementError as e:
            return str(e)
        if (fingerprint := fingerprint_of(weights)) is not None:
            return effect_fault(effect, recorded_effect(fingerprint), "its fingerprint", kind)
        # another worker's measurement may have ended meanwhile
        first = self._first.get(weights)
        if first is None:
            fault = effect_fault(effect, None, "", kind)
            first = _Measured(effect, set())
        else:
            fault = effect_fault(effect, first.effect, f"`{min(first.workers)}`", kind)
        if not fault and worker.incarnation == incarnation:
            first.workers.add(worker.name)
            self._first[weights] = first
        return fault

    def forget(self, worker: str) -> None:
        """Forget what was measured on a worker that left, or restarted."""
        for start in [start for start in self._bases if start.worker == worker]:
            del self._bases[start]
        for measured in self._first.values():
            measured.workers.discard(worker)
        self._first = {weights: measured for weights, measured in self._first.items() if measured.workers}

    def keep(self, needed: Collection[TaskWeights]) -> None:
        """Forget the effects of all other weights."""
        self._first = {weights: measured for weights, measured in self._first.items() if weights in needed}

    async def _base(self, pair: Pair, tokens: tuple[int, ...]) -> Logprobs:
        assert pair.prefill.card is not None, "only admitted workers get canaries"
        start = _Start(pair.prefill.name, pair.prefill.incarnation, pair.prefill.card.module)
        if start not in self._bases:
            self.forget(start.worker)
        measured = self._bases.setdefault(start, {})
        found = measured.get(tokens)
        if found is None:
            found = measured[tokens] = asyncio.ensure_future(self._measure(Pair(pair.prefill, pair.decode), tokens))
        try:
            # shielded: the canaries of other weights wait for the same measurement
            return await asyncio.shield(found)
        except _MeasurementError:
            if measured.get(tokens) is found:
                del measured[tokens]
            raise

    async def _measure(self, pair: Pair, tokens: tuple[int, ...]) -> Logprobs:
        """Return the log probabilities of a prompt on the prefill worker of a pair, with the pair's weights if any.

        Raises:
            _MeasurementError: the pair returned none.
        """
        request = make_effect_canary(tokens, self._rng)
        ticket = Ticket(request.task, None, self._dispatcher.attempts.now(), counted=False)
        try:
            outcome = await self._dispatcher.try_pair(request, pair, ticket, self._deadlines.canary, fresh=True)
            if isinstance(outcome, PairResponse):
                return prompt_logprobs(outcome.prefill or b"", tokens)
        except (ApiError, BadReplyError) as e:
            raise _MeasurementError(str(e)) from e
        raise _MeasurementError(outcome.error.message)
