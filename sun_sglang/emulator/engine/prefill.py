"""The prefill engine: waits for a room's decode worker, computes the prompt, and sends the KV and the first token.

Where the decode worker makes the first token, the engine computes the prompt without its last token, and its own token
has no use.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sun_sglang.emulator.engine.bootstrap import BootstrapServer, Link
from sun_sglang.emulator.engine.engine import FAKE_HOST, Engine, EngineParts, die, transfer_error
from sun_sglang.emulator.engine.generation import Generation
from sun_sglang.emulator.fault_injection import FaultKind
from sun_sglang.emulator.protocol.fake_tokens import generation_seed, prompt_logprobs, token_at
from sun_sglang.sim.prefill_scheduler import PrefillScheduler

_ABORTED = "Aborted by AbortReq."


@dataclass(slots=True)
class _Ready:
    """A decode worker that has reserved KV for a request.

    Attributes:
        cached: prompt tokens whose KV the decode worker has, so that it is not sent.
        link: the connection to the decode worker; None for SGLang's stand-in.
    """

    cached: int
    link: Link | None


class PrefillEngine(Engine):
    """One prefill worker's engine.

    Args:
        parts: the parts that do not depend on the role.
        weights: revision of its weights, from which generated tokens follow.
        vocab_size: every token id is below this number.
        kv_bytes: bytes of KV per token.
        host: address of the bootstrap port.
        port: the bootstrap port.
    """

    def __init__(
        self, parts: EngineParts, *, weights: str, vocab_size: int, kv_bytes: int, host: str, port: int
    ) -> None:
        super().__init__(parts)
        self.scheduler = PrefillScheduler(parts.costs, kv_tokens=parts.limits.kv, slots=parts.slots, turns=parts.turns)
        self._weights = weights
        self._vocab_size = vocab_size
        self._kv_bytes = kv_bytes
        self._address = (host, port)
        self._rooms: dict[int, Generation] = {}
        self._ready: dict[int, _Ready] = {}
        self._bootstrapping: dict[str, asyncio.TimerHandle] = {}
        self._in_transfer: dict[str, asyncio.TimerHandle] = {}
        self._server = BootstrapServer(
            is_silent=lambda: self.faults.active("blackhole_bootstrap", "hang") is not None,
            on_ready=self._on_decoder_ready,
            on_abort=self._on_decoder_abort,
            on_lost=self._on_decoder_lost,
        )

    async def start(self) -> None:
        """Open the bootstrap port."""
        await self._server.start(*self._address)

    async def close(self) -> None:
        """Close the bootstrap port."""
        await self._server.stop()

    async def close_bootstrap(self) -> None:
        """Close the bootstrap port and its connections; the engine goes on."""
        await self._server.stop()

    def load(self) -> dict[str, Any]:
        """Return the counts of `/v1/loads`."""
        return {
            "running": self.scheduler.running,
            "waiting": self.scheduler.waiting,
            "waiting_tokens": self.scheduler.waiting_tokens,
            "used": self.scheduler.used,
            "prefill_bootstrap_queue_reqs": len(self._bootstrapping),
            "prefill_inflight_queue_reqs": len(self._in_transfer),
        }

    def queued_modules(self) -> Mapping[str, int]:
        """Return the number of prompts that wait for a batch, by module."""
        return self.scheduler.queued

    # --- one request ----------------------------------------------------------------------------------------------

    def _begin(self, generation: Generation) -> None:
        room = generation.request.room
        assert room is not None
        self._rooms[room] = generation
        generation.prompt_tokens = len(generation.request.prefilled)
        seconds = self.emulation.bootstrap_timeout
        expired = f"Request {generation.request.rid} timed out after {seconds:g}s in KVPoll.Bootstrapping"
        self._bootstrapping[generation.request.rid] = self.call_later(
            seconds, self._bootstrap_failed, generation, expired
        )
        if generation.request.host == FAKE_HOST:
            self._ready[room] = _Ready(0, None)
        if room in self._ready:
            self._compute(generation)

    def _compute(self, generation: Generation) -> None:
        request = generation.request
        self._bootstrapping.pop(request.rid).cancel()
        known = min(self.cache.match(generation.namespace, request.prefilled), len(request.prefilled) - 1)
        if request.logprobs is not None and request.logprobs.start >= 0:
            known = min(known, request.logprobs.start)
        generation.cached = known
        if request.logprobs is not None and request.logprobs.start >= 0:
            logprobs = prompt_logprobs(self._weights_of(generation), request.prompt, revision_of(generation))
            generation.input_logprobs = (None, *logprobs)
        self.scheduler.submit(
            request.rid,
            len(request.prefilled),
            cached=known,
            adapter=request.adapter,
            module=request.module,
            since=generation.started_at,
        )
        self.wake()

    def _step(self, now: float) -> float | None:
        if self._blocked:
            return None
        self.scheduler.costs = self.current_costs()
        before = self.scheduler.due
        for done in self.scheduler.step(now):
            self._computed(self.generations[done.rid])
        due = self.scheduler.due
        if due is not None and due != before:
            self._die_within(due - now, "die_in_change" if self.scheduler.changing else "die_in_prefill")
        return due

    def _die_within(self, seconds: float, fault: FaultKind) -> None:
        """End the process half-way through a batch or a change of `seconds` if the fault applies to a request."""
        if any(self.faults.apply(g.request.namespace, fault) for g in self.generations.values()):
            self.call_later(seconds / 2, die)

    def _computed(self, generation: Generation) -> None:
        request = generation.request
        assert request.room is not None
        self.cache.insert(generation.namespace, request.prefilled)
        ready = self._ready[request.room]
        size = (len(request.prefilled) - ready.cached) * self._kv_bytes
        seconds = self.scheduler.costs.transfer_seconds(size)
        if seconds:
            self._in_transfer[request.rid] = self.call_later(seconds, self._transfer, generation)
        else:
            self._transfer(generation)

    def _transfer(self, generation: Generation) -> None:
        request = generation.request
        assert request.room is not None
        ready = self._ready[request.room]
        seed = generation_seed(self._weights_of(generation), request.prefilled, revision_of(generation))
        first = request.repeated[0] if request.repeated else token_at(seed, 0, self._vocab_size)
        if ready.link is not None and not ready.link.send(
            op="kv", room=request.room, seed=seed, vocab=self._vocab_size, cached=generation.cached
        ):
            self._transfer_failed(generation, "Decode instance could be dead, its session is not alive")
            return
        generation.append(first)
        generation.end({"type": "length", "length": 0})
        self.total_tokens += len(request.prefilled) - generation.cached
        self._clear(generation)

    def _weights_of(self, generation: Generation) -> str:
        return generation.weights or self._weights

    # --- ends ---------------------------------------------------------------------------------------------------------

    def _abort(self, generation: Generation) -> None:
        rid = generation.request.rid
        if rid in self._bootstrapping:
            self._bootstrap_failed(generation, _ABORTED)
        elif rid in self._in_transfer:
            self._transfer_failed(generation, _ABORTED)
        else:
            generation.abort()
            self._clear(generation)

    def _bootstrap_failed(self, generation: Generation, why: str) -> None:
        generation.fail(transfer_error("Prefill bootstrap", generation, why))
        self._clear(generation)

    def _transfer_failed(self, generation: Generation, why: str) -> None:
        generation.fail(transfer_error("Prefill transfer", generation, why))
        self._clear(generation)

    def _clear(self, generation: Generation) -> None:
        """Drop every trace of a request. Its decode worker is not notified, as in SGLang."""
        rid, room = generation.request.rid, generation.request.room
        assert room is not None
        for timers in (self._bootstrapping, self._in_transfer):
            timer = timers.pop(rid, None)
            if timer is not None:
                timer.cancel()
        self.scheduler.release(rid)
        self._ready.pop(room, None)
        if self._rooms.get(room) is generation:
            del self._rooms[room]
        self.wake()

    # --- messages of decode workers ---------------------------------------------------------------------------------

    def _on_decoder_ready(self, room: int, cached: int, link: Link) -> None:
        self._ready[room] = _Ready(cached, link)
        generation = self._rooms.get(room)
        if generation is not None and generation.request.rid in self._bootstrapping:
            self._compute(generation)

    def _on_decoder_abort(self, room: int) -> None:
        self._ready.pop(room, None)
        generation = self._rooms.get(room)
        if generation is not None:
            self._transfer_failed(generation, "Aborted by AbortReq on the decode side.")

    def _on_decoder_lost(self, link: Link) -> None:
        """Forget the rooms without a request here; the others fail when their KV is sent."""
        for room in [r for r, ready in self._ready.items() if ready.link is link and r not in self._rooms]:
            del self._ready[room]


def revision_of(generation: Generation) -> str:
    """Return the revision of a generation's adapter; empty without one."""
    return generation.adapter.revision if generation.adapter else ""
