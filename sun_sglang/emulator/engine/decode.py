"""The decode worker: finds its prefill worker, reserves KV, waits for it, and then makes a token a step."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from sun_sglang.emulator.engine.bootstrap import Message, Peers, UnreachableError
from sun_sglang.emulator.engine.engine import FAKE_HOST, Engine, die, transfer_error
from sun_sglang.emulator.engine.generation import Generation
from sun_sglang.emulator.fault_injection import FaultInjector
from sun_sglang.emulator.identity import Limits
from sun_sglang.emulator.protocol.fake_tokens import token_at
from sun_sglang.sim.cost_model import CostModel
from sun_sglang.sim.decode_scheduler import Admitted, DecodeScheduler, Ended, Token
from sun_sglang.sim.prefix_cache import PrefixCache
from sun_sglang.topology import Emulation

_ABORTED = "Aborted by AbortReq."


@dataclass(slots=True)
class _Leg:
    """A request between its arrival and its first token.

    Attributes:
        answer: what is made.
        handshaken: the prefill worker was told that KV is reserved.
        timer: ends the wait for the KV.
        seed: what its tokens follow from, once its KV is here.
        vocab_size: token ids are below.
    """

    answer: Generation
    handshaken: bool = False
    timer: asyncio.TimerHandle | None = None
    seed: int | None = None
    vocab_size: int = 1

    @property
    def address(self) -> tuple[str, int]:
        return (self.answer.ask.host, self.answer.ask.port)


class DecodeEngine(Engine):
    """One decode worker's engine; arguments as of `Engine`, and whether prompts' KV is kept."""

    def __init__(
        self,
        costs: CostModel,
        limits: Limits,
        cache: PrefixCache,
        emulation: Emulation,
        faults: FaultInjector,
        *,
        keeps_prompts: bool,
    ) -> None:
        super().__init__(costs, limits, cache, emulation, faults)
        self.scheduler = DecodeScheduler(costs, kv_tokens=limits.kv, held=self._is_held)
        self._keeps_prompts = keeps_prompts
        self._legs: dict[str, _Leg] = {}
        self._rooms: dict[int, str] = {}
        self._looking: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._blocked = 0
        self._watching: asyncio.Task[None] | None = None
        self._peers = Peers(
            interval=emulation.heartbeat_interval,
            failures=emulation.heartbeat_failures,
            lookup_timeout=emulation.lookup_timeout,
            take=self._take,
            lost=self._lose,
        )

    async def start(self) -> None:
        """Begin with heartbeats."""
        self._watching = asyncio.create_task(self._peers.watch())

    async def close(self) -> None:
        """Break off every connection."""
        tasks = [*self._looking.values(), *([self._watching] if self._watching else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._peers.close()

    def load(self) -> dict[str, Any]:
        """Counts for `/v1/loads`."""
        s = self.scheduler
        unmet = sum(1 for leg in self._legs.values() if leg.address in self._looking)
        return {
            "running": s.running,
            "waiting": 0,
            "waiting_tokens": s.waiting_tokens,
            "used": s.used,
            "decode_prealloc_queue_reqs": s.waiting + unmet,
            "decode_transfer_queue_reqs": s.transferring,
            "decode_retracted_queue_reqs": s.retracted,
        }

    # --- one request ----------------------------------------------------------------------------------------------

    def _begin(self, answer: Generation) -> None:
        ask = answer.ask
        leg = _Leg(answer)
        self._legs[ask.rid] = leg
        answer.handed_over = True
        assert ask.room is not None
        self._rooms[ask.room] = ask.rid
        if ask.host == FAKE_HOST or self._peers.known(leg.address):
            self._enqueue(leg)
        elif leg.address not in self._looking:
            self._looking[leg.address] = asyncio.create_task(self._look_up(leg.address))

    async def _look_up(self, address: tuple[str, int]) -> None:
        """Meet a prefill worker. While it is asked nothing else is done here, as in SGLang's scheduler."""
        for attempt in range(self.emulation.lookup_attempts):
            if attempt:
                await asyncio.sleep(self.emulation.lookup_pause)
            self._blocked += 1
            try:
                await self._peers.look_up(address)
                break
            except UnreachableError:
                continue
            finally:
                self._blocked -= 1
                self.wake()
        del self._looking[address]
        for leg in [leg for leg in self._legs.values() if leg.address == address and not leg.handshaken]:
            if self._peers.known(address):
                self._enqueue(leg)
            else:
                self._fail(leg, "Decode handshake", _ABORTED)

    def _enqueue(self, leg: _Leg) -> None:
        ask = leg.answer.ask
        self.scheduler.submit(ask.rid, len(ask.prompt), ask.limit)
        self.wake()

    def _step(self, now: float) -> float | None:
        if self._blocked:
            return None
        self.scheduler.costs = self.current_costs()
        for event in self.scheduler.step(now):
            leg = self._legs.get(event.rid)
            if leg is None:
                continue  # a stop ended it earlier in this very step
            match event:
                case Admitted():
                    self._handshake(leg)
                case Token(_, made):
                    self._say(leg, made)
                case Ended(_, why):
                    self._end(leg, why)
        # KV of a fake transfer is here at once, which the scheduler has to see
        return now if self._wake.is_set() else self.scheduler.due

    def _is_held(self, rid: str, made: int) -> bool:
        fault = self.faults.on("hold")
        return fault is not None and made >= fault.token and not fault.spares(self._legs[rid].answer.ask.namespace)

    def _handshake(self, leg: _Leg) -> None:
        ask = leg.answer.ask
        leg.handshaken = True
        if self._keeps_prompts:
            leg.answer.cached = self.cache.match(ask.namespace, ask.prompt)
        if ask.host == FAKE_HOST:
            self._arrive(leg, 0, 1)
            return
        seconds = self.emulation.waiting_timeout
        expired = f"Request {ask.rid} timed out after {seconds:g}s in KVPoll.WaitingForInput"
        leg.timer = self.later(seconds, self._fail, leg, "Decode transfer", expired)
        peer = self._peers.known(leg.address)
        if peer is not None:
            peer.send(op="ready", room=ask.room, cached=leg.answer.cached)

    def _arrive(self, leg: _Leg, seed: int, vocab_size: int) -> None:
        leg.seed, leg.vocab_size = seed, vocab_size
        if leg.timer is not None:
            leg.timer.cancel()
        if self._keeps_prompts:
            self.cache.insert(leg.answer.ask.namespace, leg.answer.ask.prompt)
        self.scheduler.arrive(leg.answer.ask.rid)
        self.wake()

    def _say(self, leg: _Leg, made: int) -> None:
        assert leg.seed is not None
        answer = leg.answer
        fault = self.faults.on("die_at_token")
        if fault is not None and made >= fault.token and self.faults.meets(answer.ask.namespace, "die_at_token"):
            die()
        self.total_tokens += 1
        if made < answer.ask.limit:
            answer.retractions = self.scheduler.retractions(answer.ask.rid)
        if answer.say(token_at(leg.seed, made - 1, leg.vocab_size)):
            self._clear(leg)

    def _end(self, leg: _Leg, why: str) -> None:
        if why == "length":
            leg.answer.end({"type": "length", "length": leg.answer.ask.limit})
        else:
            leg.answer.fail("Out of memory even after retracting all other requests in the decode batch.")
        self._clear(leg)

    # --- ends ---------------------------------------------------------------------------------------------------------

    def _abort(self, answer: Generation) -> None:
        leg = self._legs[answer.ask.rid]
        if leg.seed is not None:
            answer.abort()
            self._clear(leg)
        else:
            self._fail(leg, "Decode transfer" if leg.handshaken else "Decode handshake", _ABORTED)

    def _fail(self, leg: _Leg, stage: str, why: str) -> None:
        """A request whose KV did not come. Its prefill worker learns of it, if it was told of the request at all."""
        peer = self._peers.known(leg.address)
        if peer is not None and leg.handshaken:
            peer.send(op="abort", room=leg.answer.ask.room)
        leg.answer.fail(transfer_error(stage, leg.answer, why))
        self._clear(leg)

    def _clear(self, leg: _Leg) -> None:
        if leg.timer is not None:
            leg.timer.cancel()
        ask = leg.answer.ask
        self.scheduler.drop(ask.rid)
        self._legs.pop(ask.rid, None)
        if ask.room is not None and self._rooms.get(ask.room) == ask.rid:
            del self._rooms[ask.room]
        self.wake()

    # --- what prefill workers say -----------------------------------------------------------------------------------

    def _take(self, message: Message) -> None:
        leg = self._legs.get(self._rooms.get(message["room"], ""))
        if leg is not None and leg.seed is None and message["op"] == "kv":
            self._arrive(leg, message["seed"], message["vocab"])

    def _lose(self, address: tuple[str, int]) -> None:
        host, port = address
        why = f"Lost connection with prefill instance (bootstrap_addr: {host}:{port})"
        for leg in [leg for leg in self._legs.values() if leg.address == address and leg.seed is None]:
            self._fail(leg, "Decode transfer", why)
