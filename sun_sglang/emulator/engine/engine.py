"""What the two engines have in common: answers under way, and a scheduler that is driven by the real clock."""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from typing import Any

from sun_sglang.emulator.engine.generation import Generation
from sun_sglang.emulator.fault_injection import FaultInjector
from sun_sglang.emulator.identity import Limits
from sun_sglang.emulator.protocol.errors import BadValueError
from sun_sglang.emulator.protocol.request import GenerationRequest
from sun_sglang.sim.cost_model import CostModel
from sun_sglang.sim.prefix_cache import PrefixCache
from sun_sglang.topology import Emulation

# SGLang's stand-in for a prefill worker, which its health checks use (disaggregation/utils.py)
FAKE_HOST = "2.2.2.2"
# later than this the clock is followed; below, the schedule is, so that timers' lateness does not add up
_LATENESS = 0.05


class Engine(ABC):
    """One worker's engine.

    Args:
        costs: what its work takes.
        limits: what it takes.
        cache: prefixes that it knows.
        emulation: timeouts.
        faults: what it is to do wrong.
    """

    def __init__(
        self, costs: CostModel, limits: Limits, cache: PrefixCache, emulation: Emulation, faults: FaultInjector
    ) -> None:
        self.costs = costs
        self.limits = limits
        self.cache = cache
        self.emulation = emulation
        self.faults = faults
        self.answers: dict[str, Generation] = {}
        self.total_tokens = 0
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    # --- what the HTTP side asks ------------------------------------------------------------------------------------

    def submit(self, ask: GenerationRequest) -> Generation:
        """Take a request.

        Raises:
            BadValueError: it cannot be one of a pair's, or its id is under way already.
        """
        if ask.room is None:
            message = f"Disaggregated request received without bootstrap room id. req.rid={ask.rid!r}"
            raise BadValueError(message, ask.endpoint)
        if ask.rid in self.answers:
            raise BadValueError(f"Duplicate request ID detected: {ask.rid}", ask.endpoint)
        answer = Generation(ask)
        self.answers[ask.rid] = answer
        self._idle.clear()
        self._begin(answer)
        self.wake()
        return answer

    async def close_bootstrap(self) -> None:
        """Close the port where decode workers are met; a decode worker has none."""
        return

    def abort(self, rid: str, *, everything: bool = False) -> None:
        """Abort a request, and with it every other whose id begins with its id, as SGLang does.

        An id that is not under way aborts nothing, not even those that begin with it (managers/tokenizer_manager.py).
        """
        if not everything and rid not in self.answers:
            return
        for answer in [a for a in self.answers.values() if everything or a.ask.rid.startswith(rid)]:
            if answer.finish is None:
                self._abort(answer)
        self.wake()

    def forget(self, answer: Generation) -> None:
        """Nobody waits for an answer any more; what is left of it is aborted."""
        if answer.finish is None:
            self._abort(answer)
        if self.answers.get(answer.ask.rid) is answer:
            del self.answers[answer.ask.rid]
        if not self.answers:
            self._idle.set()
        self.wake()

    async def idle(self) -> None:
        """Wait until nothing is under way."""
        await self._idle.wait()

    def flush(self) -> bool:
        """Forget every cached prefix; False while anything is under way."""
        if self.answers:
            return False
        self.cache.clear()
        return True

    @abstractmethod
    def load(self) -> dict[str, Any]:
        """Counts for `/v1/loads`: running, waiting, waiting_tokens, used, and the disaggregation queues."""

    # --- what a role does ---------------------------------------------------------------------------------------------

    @abstractmethod
    def _begin(self, answer: Generation) -> None:
        """A request came."""

    @abstractmethod
    def _abort(self, answer: Generation) -> None:
        """A request is to end now."""

    @abstractmethod
    def _step(self, now: float) -> float | None:
        """Do what is due. Returns when to be called again; None when something happens."""

    @abstractmethod
    async def start(self) -> None:
        """Open what the role needs."""

    @abstractmethod
    async def close(self) -> None:
        """Give it back."""

    # --- time -----------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something happened that the scheduler has to look at."""
        self._wake.set()

    async def run(self) -> None:
        """Drive the scheduler until cancelled."""
        loop = asyncio.get_running_loop()
        due: float | None = None
        while True:
            now = loop.time()
            self._wake.clear()
            due = self._step(due if due is not None and 0 <= now - due < _LATENESS else now)
            if due is not None and due <= loop.time():
                await asyncio.sleep(0)
                continue
            timer = loop.call_at(due, self._wake.set) if due is not None else None
            await self._wake.wait()
            if timer is not None:
                timer.cancel()

    def current_costs(self) -> CostModel:
        """The costs, with a `slow` fault on them."""
        slow = self.faults.on("slow")
        return self.costs.slowed(slow.factor) if slow else self.costs

    def later(self, seconds: float, call: Any, *args: Any) -> asyncio.TimerHandle:
        """Call something after a while."""
        return asyncio.get_running_loop().call_later(seconds, call, *args)


def die() -> None:
    """End the process as a kill would: nothing is said, nothing cleaned up."""
    os._exit(1)


def transfer_error(stage: str, answer: Generation, why: str) -> str:
    """SGLang's message for a request that failed between its two workers (disaggregation/{prefill,decode}.py)."""
    owner = "decode_req.req" if stage.startswith("Decode") else "req"
    room, rid = answer.ask.room, answer.ask.rid
    return (
        f"{stage} failed for request rank=0 {owner}.rid={rid!r} {owner}.bootstrap_room={room} with exception "
        f"KVTransferError(bootstrap_room={room}): {why}"
    )
