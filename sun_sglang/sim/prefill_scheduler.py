"""The batching of a prefill worker: prompts in order of arrival, as many as KV and a batch's token limit allow. Pure.

A prompt whose LoRA adapter finds no slot beside those of the batch waits for the next one, and later prompts may go
before it (SGLang's `can_schedule_lora_req` in managers/scheduler.py). Where modules take turns, a batch has the prompts
of one module, and the worker does nothing else while it changes its weights. A state machine without a clock:
`step(now)` does the work that is due, and `due` is the time of the next call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sun_sglang.module_turns.turns import Turns
from sun_sglang.sim.adapter_slots import AdapterSlots
from sun_sglang.sim.cost_model import CostModel
from sun_sglang.sim.prompt_queues import Prompt, PromptQueues


class Prefilled(NamedTuple):
    """A prompt was computed. Its KV is held until `release`."""

    rid: str


class _Work(NamedTuple):
    """The batch that runs, or the change to `module` if it has no prompts."""

    prompts: tuple[Prompt, ...]
    module: str
    began: float


class PrefillScheduler:
    """The queue and the batch of one prefill worker.

    Args:
        costs: the seconds that a batch takes.
        kv_tokens: tokens of KV that fit.
        slots: the slots of LoRA adapters; None on a worker without LoRA.
        turns: the turns of modules; None on a worker that serves its own model alone.

    Attributes:
        costs: may be replaced; the next batch uses the new costs.
        due: end of the running batch or change; None if none runs.
        used: tokens of KV held.
        turns: as given.
    """

    def __init__(
        self, costs: CostModel, *, kv_tokens: int, slots: AdapterSlots | None = None, turns: Turns | None = None
    ) -> None:
        self.costs = costs
        self.kv_tokens = kv_tokens
        self.due: float | None = None
        self.used = 0
        self.turns = turns
        self._slots = slots
        self._queues = PromptQueues()
        self._work: _Work | None = None
        self._held: dict[str, int] = {}

    @property
    def waiting(self) -> int:
        """Number of prompts in the queue."""
        return len(self._queues)

    @property
    def waiting_tokens(self) -> int:
        """Uncached prompt tokens in the queue."""
        return self._queues.tokens

    @property
    def running(self) -> int:
        """Number of prompts in the running batch."""
        return len(self._work.prompts) if self._work else 0

    @property
    def changing(self) -> bool:
        """Whether it changes to another module."""
        return self._work is not None and not self._work.prompts

    @property
    def queued(self) -> Mapping[str, int]:
        """Number of prompts in the queue by module, of the modules that have some."""
        return {w.module: w.requests for w in self._queues.waiting()}

    def submit(
        self,
        rid: str,
        tokens: int,
        *,
        cached: int = 0,
        adapter: str | None = None,
        module: str | None = None,
        since: float = 0.0,
    ) -> None:
        """Queue a prompt.

        Args:
            rid: id of the request.
            tokens: tokens of the prompt. A prompt over `kv_tokens` never fits, and the caller must refuse it.
            cached: tokens at its start that are cached and not computed.
            adapter: the LoRA adapter that computes it; None for none.
            module: the module whose weights compute it; None for the worker's own model.
            since: clock seconds of its arrival, from which its module's turn follows.
        """
        assert 0 < tokens <= self.kv_tokens
        assert 0 <= cached < tokens
        assert rid not in self._held
        assert adapter is None or self._slots is not None
        assert module is None or self.turns is not None
        queue = module or (self.turns.own if self.turns is not None else "")
        self._queues.add(Prompt(rid, tokens, tokens - cached, adapter, queue, since))

    def step(self, now: float) -> list[Prefilled]:
        """End a batch that is due, start the next one, and return the prompts of the ended batch.

        Call it after every `submit` and `release`, and at `due`.
        """
        done = []
        if self._work is not None and self.due is not None and now >= self.due:
            # a prompt that was released meanwhile holds no KV any more
            done = [Prefilled(p.rid) for p in self._work.prompts if p.rid in self._held]
            self._end(self._work, self.due)
        if self.due is None:
            self._start(now)
        return done

    def release(self, rid: str) -> None:
        """Free the KV of a prompt, or remove the prompt from the queue."""
        self.used -= self._held.pop(rid, 0)
        self._queues.remove(rid)

    def _end(self, work: _Work, at: float) -> None:
        self._work, self.due = None, None
        if self.turns is None:
            return
        if work.prompts:
            self.turns.note_batch(sum(p.computed for p in work.prompts), at - work.began)
        else:
            self.turns.note_change(work.module, at - work.began, at)

    def _start(self, now: float) -> None:
        """Start the next batch, or the change that it needs."""
        module = ""
        if self.turns is not None:
            module = self.turns.choose(self._queues.waiting(), now)
            if module != self.turns.loaded:
                self._work, self.due = _Work((), module, now), now + self.costs.module_change
                return
        batch, names = self._next_batch(module)
        if batch:
            copies = self._slots.use(names, self.costs.lora_slot) if self._slots is not None else 0.0
            computed, adapters = [p.computed for p in batch], [p.adapter for p in batch]
            self._work = _Work(tuple(batch), module, now)
            self.due = now + copies + self.costs.prefill_seconds(computed, adapters)

    def _next_batch(self, module: str) -> tuple[list[Prompt], set[str | None]]:
        """Take the next batch of a module from its queue; return it and its adapters."""
        batch: list[Prompt] = []
        size = 0
        names: set[str | None] = set()
        passed_over = []
        queue = self._queues.of(module)
        while queue:
            head = queue[0]
            if self.used + head.tokens > self.kv_tokens:
                break
            if batch and size + head.computed > self.costs.max_prefill_tokens:
                break
            queue.popleft()
            if self._slots is not None and not self._slots.fit(names | {head.adapter}):
                passed_over.append(head)
                continue
            names.add(head.adapter)
            batch.append(head)
            self._held[head.rid] = head.tokens
            self.used += head.tokens
            size += head.computed
        queue.extendleft(reversed(passed_over))
        self._queues.replace(module, queue)
        return batch, names
