"""How a prefill worker batches: prompts in the order they came, as many as KV and a batch's token limit allow. Pure.

A state machine without a clock: `step(now)` does what is due, `due` says when to call it next.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from sun_sglang.sim.cost_model import CostModel


class Prefilled(NamedTuple):
    """A prompt was computed; its KV is held until `release`."""

    rid: str


@dataclass(slots=True)
class _Prompt:
    rid: str
    tokens: int
    computed: int


class PrefillScheduler:
    """The queue and the batch of one prefill worker.

    Args:
        costs: what a batch takes.
        kv_tokens: tokens of KV that fit.

    Attributes:
        costs: may be replaced; the next batch takes what it says.
        due: when the batch under way ends; None while there is none.
        used: tokens of KV held.
    """

    def __init__(self, costs: CostModel, *, kv_tokens: int) -> None:
        self.costs = costs
        self.kv_tokens = kv_tokens
        self.due: float | None = None
        self.used = 0
        self._queue: deque[_Prompt] = deque()
        self._batch: list[_Prompt] = []
        self._held: dict[str, int] = {}

    @property
    def waiting(self) -> int:
        """Prompts not yet in a batch."""
        return len(self._queue)

    @property
    def waiting_tokens(self) -> int:
        """Prompt tokens still to be computed for the queue."""
        return sum(p.computed for p in self._queue)

    @property
    def running(self) -> int:
        """Prompts in the batch under way."""
        return len(self._batch)

    def submit(self, rid: str, tokens: int, *, cached: int = 0) -> None:
        """Queue a prompt of `tokens` tokens, `cached` of which need not be computed.

        A prompt over `kv_tokens` never fits: whoever submits refuses it first.
        """
        assert 0 < tokens <= self.kv_tokens
        assert 0 <= cached < tokens
        assert rid not in self._held
        self._queue.append(_Prompt(rid, tokens, tokens - cached))

    def step(self, now: float) -> list[Prefilled]:
        """End a batch that is due and start the next. Call after every `submit` and `release`, and at `due`."""
        done = []
        if self.due is not None and now >= self.due:
            # one that was dropped meanwhile holds no KV any more
            done = [Prefilled(p.rid) for p in self._batch if p.rid in self._held]
            self._batch, self.due = [], None
        if self.due is None:
            self._start(now)
        return done

    def release(self, rid: str) -> None:
        """Give back a prompt's KV, after its transfer or its end; takes it out of the queue if it is still there."""
        self.used -= self._held.pop(rid, 0)
        self._queue = deque(p for p in self._queue if p.rid != rid) if self._queue else self._queue

    def _start(self, now: float) -> None:
        size = 0
        while self._queue:
            head = self._queue[0]
            if self.used + head.tokens > self.kv_tokens:
                break
            if self._batch and size + head.computed > self.costs.max_prefill_tokens:
                break
            self._queue.popleft()
            self._batch.append(head)
            self._held[head.rid] = head.tokens
            self.used += head.tokens
            size += head.computed
        if self._batch:
            self.due = now + self.costs.prefill_seconds([p.computed for p in self._batch])
