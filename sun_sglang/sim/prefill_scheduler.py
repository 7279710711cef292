"""The batching of a prefill worker: prompts in order of arrival, as many as KV and a batch's token limit allow. Pure.

A prompt whose LoRA adapter finds no slot beside those of the batch waits for the next one, and later prompts may go
before it (SGLang's `can_schedule_lora_req` in managers/scheduler.py). A state machine without a clock: `step(now)` does
the work that is due, and `due` is the time of the next call.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from sun_sglang.sim.adapter_slots import AdapterSlots
from sun_sglang.sim.cost_model import CostModel


class Prefilled(NamedTuple):
    """A prompt was computed. Its KV is held until `release`."""

    rid: str


@dataclass(slots=True)
class _Prompt:
    rid: str
    tokens: int
    computed: int
    adapter: str | None


class PrefillScheduler:
    """The queue and the batch of one prefill worker.

    Args:
        costs: the seconds that a batch takes.
        kv_tokens: tokens of KV that fit.
        slots: the slots of LoRA adapters; None on a worker without LoRA.

    Attributes:
        costs: may be replaced; the next batch uses the new costs.
        due: end of the running batch; None if none runs.
        used: tokens of KV held.
    """

    def __init__(self, costs: CostModel, *, kv_tokens: int, slots: AdapterSlots | None = None) -> None:
        self.costs = costs
        self.kv_tokens = kv_tokens
        self.due: float | None = None
        self.used = 0
        self._slots = slots
        self._queue: deque[_Prompt] = deque()
        self._batch: list[_Prompt] = []
        self._held: dict[str, int] = {}

    @property
    def waiting(self) -> int:
        """Number of prompts in the queue."""
        return len(self._queue)

    @property
    def waiting_tokens(self) -> int:
        """Uncached prompt tokens in the queue."""
        return sum(p.computed for p in self._queue)

    @property
    def running(self) -> int:
        """Number of prompts in the running batch."""
        return len(self._batch)

    def submit(self, rid: str, tokens: int, *, cached: int = 0, adapter: str | None = None) -> None:
        """Queue a prompt.

        Args:
            rid: id of the request.
            tokens: tokens of the prompt. A prompt over `kv_tokens` never fits, and the caller must refuse it.
            cached: tokens at its start that are cached and not computed.
            adapter: the LoRA adapter that computes it; None for none.
        """
        assert 0 < tokens <= self.kv_tokens
        assert 0 <= cached < tokens
        assert rid not in self._held
        assert adapter is None or self._slots is not None
        self._queue.append(_Prompt(rid, tokens, tokens - cached, adapter))

    def step(self, now: float) -> list[Prefilled]:
        """End a batch that is due, start the next one, and return the prompts of the ended batch.

        Call it after every `submit` and `release`, and at `due`.
        """
        done = []
        if self.due is not None and now >= self.due:
            # a prompt that was released meanwhile holds no KV any more
            done = [Prefilled(p.rid) for p in self._batch if p.rid in self._held]
            self._batch, self.due = [], None
        if self.due is None:
            self._start(now)
        return done

    def release(self, rid: str) -> None:
        """Free the KV of a prompt, or remove the prompt from the queue."""
        self.used -= self._held.pop(rid, 0)
        self._queue = deque(p for p in self._queue if p.rid != rid) if self._queue else self._queue

    def _start(self, now: float) -> None:
        size = 0
        names: set[str | None] = set()
        passed_over = []
        while self._queue:
            head = self._queue[0]
            if self.used + head.tokens > self.kv_tokens:
                break
            if self._batch and size + head.computed > self.costs.max_prefill_tokens:
                break
            self._queue.popleft()
            if self._slots is not None and not self._slots.fit(names | {head.adapter}):
                passed_over.append(head)
                continue
            names.add(head.adapter)
            self._batch.append(head)
            self._held[head.rid] = head.tokens
            self.used += head.tokens
            size += head.computed
        self._queue.extendleft(reversed(passed_over))
        if self._batch:
            copies = self._slots.use(names, self.costs.lora_slot) if self._slots is not None else 0.0
            computed, adapters = [p.computed for p in self._batch], [p.adapter for p in self._batch]
            self.due = now + copies + self.costs.prefill_seconds(computed, adapters)
