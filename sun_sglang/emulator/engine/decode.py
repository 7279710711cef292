"""The decode engine: connects to the prefill worker, reserves KV, waits for it, and generates a token each step."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from sun_sglang.emulator.engine.bootstrap import Address, Message, PrefillPeers, UnreachableError
from sun_sglang.emulator.engine.engine import FAKE_HOST, Engine, EngineParts, die, transfer_error
from sun_sglang.emulator.engine.generation import Generation
from sun_sglang.emulator.protocol.fake_tokens import decode_seed, token_at
from sun_sglang.sim.decode_scheduler import Admitted, DecodeScheduler, Ended, StepTotals, Token

_ABORTED = "Aborted by AbortReq."


@dataclass(slots=True)
class _Leg:
    """A request in the decode engine.

    Attributes:
        generation: the generation.
        is_handshaken: whether the prefill worker was notified that KV is reserved.
        timer: ends the wait for the KV.
        seed: seed of the tokens; None until the KV has arrived.
        vocab_size: every token id is below this number.
    """

    generation: Generation
    is_handshaken: bool = False
    timer: asyncio.TimerHandle | None = None
    seed: int | None = None
    vocab_size: int = 1

    @property
    def address(self) -> Address:
        return (self.generation.request.host, self.generation.request.port)


def _moments(totals: StepTotals) -> list[float] | None:
    """Return the sums of SGLang's `_accumulate_decode_moment` (srt/managers/scheduler.py); times are microseconds."""
    if not totals.steps:
        return None
    microseconds, product = 1e6 * totals.seconds, 1e6 * totals.requests_seconds
    sums = (totals.steps, totals.requests, microseconds, totals.requests_squared, product, totals.requests)
    return [float(value) for value in sums]


class DecodeEngine(Engine):
    """One decode worker's engine.

    Args:
        parts: the parts that do not depend on the role.
        weights: revision of its weights, from which tokens follow where it makes the first one.
        caches_prompts: whether it keeps the KV of prompts.
    """

    def __init__(self, parts: EngineParts, *, weights: str, caches_prompts: bool) -> None:
        super().__init__(parts)
        emulation = parts.emulation
        self.scheduler = DecodeScheduler(
            parts.costs, kv_tokens=parts.limits.kv, slots=parts.slots, is_held=self._is_held
        )
        self._weights = weights
        self._caches_prompts = caches_prompts
        self._legs: dict[str, _Leg] = {}
        self._rooms: dict[int, str] = {}
        self._lookups: dict[Address, asyncio.Task[None]] = {}
        self._heartbeats: asyncio.Task[None] | None = None
        self._peers = PrefillPeers(
            interval=emulation.heartbeat_interval,
            failures=emulation.heartbeat_failures,
            lookup_timeout=emulation.lookup_timeout,
            on_message=self._on_message,
            on_lost=self._on_lost,
        )

    async def start(self) -> None:
        """Start the heartbeats."""
        self._heartbeats = asyncio.create_task(self._peers.send_heartbeats())

    async def close(self) -> None:
        """Cancel lookups and heartbeats, and close every connection."""
        tasks = [*self._lookups.values(), *([self._heartbeats] if self._heartbeats else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._peers.close()

    async def beat(self) -> None:
        """Send one heartbeat to each prefill worker now, and give up those that have missed too many."""
        await self._peers.beat()

    def load(self) -> dict[str, Any]:
        """Return the counts of `/v1/loads`."""
        s = self.scheduler
        unmet = sum(1 for leg in self._legs.values() if leg.address in self._lookups)
        return {
            "running": s.running,
            "waiting": 0,
            "waiting_tokens": s.waiting_tokens,
            "used": s.used,
            "decode_prealloc_queue_reqs": s.waiting + unmet,
            "decode_transfer_queue_reqs": s.transferring,
            "decode_retracted_queue_reqs": s.retracted,
            "decode_moments": _moments(s.totals),
        }

    # --- one request ----------------------------------------------------------------------------------------------

    def _begin(self, generation: Generation) -> None:
        request = generation.request
        leg = _Leg(generation)
        self._legs[request.rid] = leg
        generation.first_token_transferred = not request.decode_first
        assert request.room is not None
        self._rooms[request.room] = request.rid
        if request.host == FAKE_HOST or self._peers.get(leg.address):
            self._enqueue(leg)
        elif leg.address not in self._lookups:
            self._lookups[leg.address] = asyncio.create_task(self._look_up(leg.address))

    async def _look_up(self, address: Address) -> None:
        """Connect to a prefill worker. The engine does nothing else meanwhile, as in SGLang's scheduler."""
        for attempt in range(self.emulation.lookup_attempts):
            if attempt:
                await asyncio.sleep(self.emulation.lookup_pause)
            self._blocked += 1
            try:
                await self._peers.connect(address)
                break
            except UnreachableError:
                continue
            finally:
                self._blocked -= 1
                self.wake()
        del self._lookups[address]
        for leg in [leg for leg in self._legs.values() if leg.address == address and not leg.is_handshaken]:
            if self._peers.get(address):
                self._enqueue(leg)
            else:
                self._fail(leg, "Decode handshake", _ABORTED)

    def _enqueue(self, leg: _Leg) -> None:
        request = leg.generation.request
        self.scheduler.submit(
            request.rid,
            len(request.prompt),
            request.limit,
            makes_first=request.decode_first,
            adapter=request.adapter,
        )
        self.wake()

    def _step(self, now: float) -> float | None:
        if self._blocked:
            return None
        self.scheduler.costs = self.current_costs()
        for event in self.scheduler.step(now):
            leg = self._legs.get(event.rid)
            if leg is None:
                continue  # a stop ended it earlier in this step
            match event:
                case Admitted():
                    self._handshake(leg)
                case Token(_, made):
                    self._append(leg, made)
                case Ended(_, why):
                    self._end(leg, why)
        # the KV of a fake transfer arrives at once, and the scheduler must step again
        return now if self._wake.is_set() else self.scheduler.due

    def _is_held(self, rid: str, made: int) -> bool:
        fault = self.faults.active("hold")
        return (
            fault is not None and made >= fault.token and not fault.spares(self._legs[rid].generation.request.namespace)
        )

    def _handshake(self, leg: _Leg) -> None:
        request = leg.generation.request
        leg.is_handshaken = True
        if self._caches_prompts:
            leg.generation.reused = self.cache.match(leg.generation.namespace, request.prefilled)
        if request.host == FAKE_HOST:
            self._on_kv(leg, 0, 1, cached=0)
            return
        seconds = self.emulation.waiting_timeout
        expired = f"Request {request.rid} timed out after {seconds:g}s in KVPoll.WaitingForInput"
        leg.timer = self.call_later(seconds, self._fail, leg, "Decode transfer", expired)
        peer = self._peers.get(leg.address)
        if peer is not None:
            peer.send(op="ready", room=request.room, cached=leg.generation.reused)

    def _on_kv(self, leg: _Leg, seed: int, vocab_size: int, *, cached: int) -> None:
        request = leg.generation.request
        own = decode_seed(seed, self._weights, request.prompt[-1]) if request.decode_first else seed
        leg.seed, leg.vocab_size, leg.generation.cached = own, vocab_size, cached
        if leg.timer is not None:
            leg.timer.cancel()
        if self._caches_prompts:
            self.cache.insert(leg.generation.namespace, request.prefilled)
        self.scheduler.arrive(request.rid)
        self.wake()

    def _append(self, leg: _Leg, made: int) -> None:
        assert leg.seed is not None
        generation = leg.generation
        fault = self.faults.active("die_at_token")
        if (
            fault is not None
            and made >= fault.token
            and self.faults.apply(generation.request.namespace, "die_at_token")
        ):
            die()
        self.total_tokens += 1
        if made < generation.request.limit:
            generation.retractions = self.scheduler.retractions(generation.request.rid)
        given, place = generation.request.repeated or (), made - 1
        if generation.append(given[place] if place < len(given) else token_at(leg.seed, place, leg.vocab_size)):
            self._clear(leg)

    def _end(self, leg: _Leg, why: str) -> None:
        if why == "length":
            leg.generation.end({"type": "length", "length": leg.generation.request.limit})
        else:
            leg.generation.fail("Out of memory even after retracting all other requests in the decode batch.")
        self._clear(leg)

    # --- ends ---------------------------------------------------------------------------------------------------------

    def _abort(self, generation: Generation) -> None:
        leg = self._legs[generation.request.rid]
        if leg.seed is not None:
            generation.abort()
            self._clear(leg)
        else:
            self._fail(leg, "Decode transfer" if leg.is_handshaken else "Decode handshake", _ABORTED)

    def _fail(self, leg: _Leg, stage: str, why: str) -> None:
        """Fail a request whose KV did not arrive, and notify its prefill worker after the handshake."""
        peer = self._peers.get(leg.address)
        if peer is not None and leg.is_handshaken:
            peer.send(op="abort", room=leg.generation.request.room)
        leg.generation.fail(transfer_error(stage, leg.generation, why))
        self._clear(leg)

    def _clear(self, leg: _Leg) -> None:
        if leg.timer is not None:
            leg.timer.cancel()
        request = leg.generation.request
        self.scheduler.drop(request.rid)
        self._legs.pop(request.rid, None)
        if request.room is not None and self._rooms.get(request.room) == request.rid:
            del self._rooms[request.room]
        self.wake()

    # --- messages of prefill workers --------------------------------------------------------------------------------

    def _on_message(self, message: Message) -> None:
        leg = self._legs.get(self._rooms.get(message["room"], ""))
        if leg is not None and leg.seed is None and message["op"] == "kv":
            self._on_kv(leg, message["seed"], message["vocab"], cached=message["cached"])

    def _on_lost(self, address: Address) -> None:
        host, port = address
        why = f"Lost connection with prefill instance (bootstrap_addr: {host}:{port})"
        for leg in [leg for leg in self._legs.values() if leg.address == address and leg.seed is None]:
            self._fail(leg, "Decode transfer", why)
