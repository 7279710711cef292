"""The prefill worker: waits for its decode worker at a room, computes the prompt, hands the KV and a token over."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from sun_sglang.emulator.engine.bootstrap import BootstrapServer, Link
from sun_sglang.emulator.engine.engine import FAKE_HOST, Engine, die, transfer_error
from sun_sglang.emulator.engine.generation import Generation
from sun_sglang.emulator.fault_injection import FaultInjector
from sun_sglang.emulator.identity import Limits
from sun_sglang.emulator.protocol.fake_tokens import generation_seed, token_at
from sun_sglang.sim.cost_model import CostModel
from sun_sglang.sim.prefill_scheduler import PrefillScheduler
from sun_sglang.sim.prefix_cache import PrefixCache
from sun_sglang.topology import Emulation

_ABORTED = "Aborted by AbortReq."


@dataclass(slots=True)
class _Ready:
    """A decode worker that has room for a request. `cached` prompt tokens need not be sent."""

    cached: int
    link: Link | None


class PrefillEngine(Engine):
    """One prefill worker's engine.

    Args:
        costs: what its work takes.
        limits: what it takes.
        cache: prefixes that it knows.
        emulation: timeouts.
        faults: what it is to do wrong.
        weights: revision of its weights; what its answers follow from.
        vocab_size: token ids are below.
        kv_bytes: bytes of KV a token.
        host: address that it listens on.
        port: its bootstrap port.
    """

    def __init__(
        self,
        costs: CostModel,
        limits: Limits,
        cache: PrefixCache,
        emulation: Emulation,
        faults: FaultInjector,
        *,
        weights: str,
        vocab_size: int,
        kv_bytes: int,
        host: str,
        port: int,
    ) -> None:
        super().__init__(costs, limits, cache, emulation, faults)
        self.scheduler = PrefillScheduler(costs, kv_tokens=limits.kv)
        self._weights = weights
        self._vocab_size = vocab_size
        self._kv_bytes = kv_bytes
        self._address = (host, port)
        self._rooms: dict[int, Generation] = {}
        self._ready: dict[int, _Ready] = {}
        self._bootstrapping: dict[str, asyncio.TimerHandle] = {}
        self._transferring: dict[str, asyncio.TimerHandle] = {}
        self._server = BootstrapServer(
            silent=lambda: faults.on("blackhole_bootstrap", "hang") is not None,
            ready=self._decoder_ready,
            aborted=self._decoder_aborted,
            lost=self._decoder_lost,
        )

    async def start(self) -> None:
        """Open the bootstrap port."""
        await self._server.start(*self._address)

    async def close(self) -> None:
        """Close it."""
        await self._server.stop()

    async def close_bootstrap(self) -> None:
        """Close the port and every connection, and go on."""
        await self._server.stop()

    def load(self) -> dict[str, Any]:
        """Counts for `/v1/loads`."""
        return {
            "running": self.scheduler.running,
            "waiting": self.scheduler.waiting,
            "waiting_tokens": self.scheduler.waiting_tokens,
            "used": self.scheduler.used,
            "prefill_bootstrap_queue_reqs": len(self._bootstrapping),
            "prefill_inflight_queue_reqs": len(self._transferring),
        }

    # --- one request ----------------------------------------------------------------------------------------------

    def _begin(self, answer: Generation) -> None:
        room = answer.ask.room
        assert room is not None
        self._rooms[room] = answer
        seconds = self.emulation.bootstrap_timeout
        expired = f"Request {answer.ask.rid} timed out after {seconds:g}s in KVPoll.Bootstrapping"
        self._bootstrapping[answer.ask.rid] = self.later(seconds, self._bootstrap_failed, answer, expired)
        if answer.ask.host == FAKE_HOST:
            self._ready[room] = _Ready(0, None)
        if room in self._ready:
            self._compute(answer)

    def _compute(self, answer: Generation) -> None:
        ask = answer.ask
        self._bootstrapping.pop(ask.rid).cancel()
        known = min(self.cache.match(ask.namespace, ask.prompt), len(ask.prompt) - 1)
        if ask.logprobs is not None and ask.logprobs.start >= 0:
            known = min(known, ask.logprobs.start)
        answer.cached = known
        answer.has_input_logprobs = ask.logprobs is not None and ask.logprobs.start >= 0
        self.scheduler.submit(ask.rid, len(ask.prompt), cached=known)
        self.wake()

    def _step(self, now: float) -> float | None:
        self.scheduler.costs = self.current_costs()
        before = self.scheduler.due
        for done in self.scheduler.step(now):
            self._computed(self.answers[done.rid])
        due = self.scheduler.due
        if due is not None and due != before:
            self._perhaps_die(due - now)
        return due

    def _perhaps_die(self, seconds: float) -> None:
        if any(self.faults.meets(a.ask.namespace, "die_in_prefill") for a in self.answers.values()):
            self.later(seconds / 2, die)

    def _computed(self, answer: Generation) -> None:
        ask = answer.ask
        assert ask.room is not None
        self.cache.insert(ask.namespace, ask.prompt)
        ready = self._ready[ask.room]
        size = (len(ask.prompt) - ready.cached) * self._kv_bytes
        seconds = self.scheduler.costs.transfer_seconds(size)
        if seconds:
            self._transferring[ask.rid] = self.later(seconds, self._hand_over, answer)
        else:
            self._hand_over(answer)

    def _hand_over(self, answer: Generation) -> None:
        ask = answer.ask
        assert ask.room is not None
        ready = self._ready[ask.room]
        seed = generation_seed(self._weights, ask.prompt)
        first = token_at(seed, 0, self._vocab_size)
        if ready.link is not None and not ready.link.send(op="kv", room=ask.room, seed=seed, vocab=self._vocab_size):
            self._transfer_failed(answer, "Decode instance could be dead, its session is not alive")
            return
        answer.say(first)
        answer.end({"type": "length", "length": 0})
        self.total_tokens += len(ask.prompt) - answer.cached
        self._clear(answer)

    # --- ends ---------------------------------------------------------------------------------------------------------

    def _abort(self, answer: Generation) -> None:
        rid = answer.ask.rid
        if rid in self._bootstrapping:
            self._bootstrap_failed(answer, _ABORTED)
        elif rid in self._transferring:
            self._transfer_failed(answer, _ABORTED)
        else:
            answer.abort()
            self._clear(answer)

    def _bootstrap_failed(self, answer: Generation, why: str) -> None:
        answer.fail(transfer_error("Prefill bootstrap", answer, why))
        self._clear(answer)

    def _transfer_failed(self, answer: Generation, why: str) -> None:
        answer.fail(transfer_error("Prefill transfer", answer, why))
        self._clear(answer)

    def _clear(self, answer: Generation) -> None:
        """Nothing of a request is left here. What its decode worker waits for it never learns."""
        rid, room = answer.ask.rid, answer.ask.room
        assert room is not None
        for timers in (self._bootstrapping, self._transferring):
            timer = timers.pop(rid, None)
            if timer is not None:
                timer.cancel()
        self.scheduler.release(rid)
        self._ready.pop(room, None)
        if self._rooms.get(room) is answer:
            del self._rooms[room]
        self.wake()

    # --- what decode workers say ----------------------------------------------------------------------------------

    def _decoder_ready(self, room: int, cached: int, link: Link) -> None:
        self._ready[room] = _Ready(cached, link)
        answer = self._rooms.get(room)
        if answer is not None and answer.ask.rid in self._bootstrapping:
            self._compute(answer)

    def _decoder_aborted(self, room: int) -> None:
        self._ready.pop(room, None)
        answer = self._rooms.get(room)
        if answer is not None:
            self._transfer_failed(answer, "Aborted by AbortReq on the decode side.")

    def _decoder_lost(self, link: Link) -> None:
        """Rooms that only a lost decode worker knew are forgotten; the others fail when their KV is to be sent."""
        for room in [r for r, ready in self._ready.items() if ready.link is link and r not in self._rooms]:
            del self._ready[room]
