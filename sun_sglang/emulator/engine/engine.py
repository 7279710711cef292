"""The common part of both engines: the generations in flight, and a scheduler that the real clock drives."""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sun_sglang.emulator.engine.adapters import LoadedAdapter
from sun_sglang.emulator.engine.generation import Generation
from sun_sglang.emulator.fault_injection import FaultInjector
from sun_sglang.emulator.identity import TokenLimits
from sun_sglang.emulator.protocol.errors import InvalidValueError
from sun_sglang.emulator.protocol.request import GenerationRequest
from sun_sglang.module_turns.turns import Turns
from sun_sglang.sim.adapter_slots import AdapterSlots
from sun_sglang.sim.cost_model import CostModel
from sun_sglang.sim.prefix_cache import PrefixCache
from sun_sglang.topology import Emulation

# SGLang's stand-in for a prefill worker, which its health checks use (disaggregation/utils.py)
FAKE_HOST = "2.2.2.2"
# A step that is late by less than this, in seconds, counts as on time, so that the lateness of timers does not add up.
_LATENESS = 0.05


@dataclass(frozen=True, slots=True)
class EngineParts:
    """The parts of an engine that do not depend on its role.

    Attributes:
        costs: the seconds that its work takes.
        limits: the lengths that it accepts.
        cache: the prefixes of earlier prompts.
        emulation: timeouts.
        faults: the faults to simulate.
        slots: the slots of LoRA adapters; None on a worker without LoRA.
        turns: the turns of modules; None on a worker that serves its own model alone.
    """

    costs: CostModel
    limits: TokenLimits
    cache: PrefixCache
    emulation: Emulation
    faults: FaultInjector
    slots: AdapterSlots | None = None
    turns: Turns | None = None


class Engine(ABC):
    """One worker's engine.

    Args:
        parts: the parts that do not depend on the role.
    """

    def __init__(self, parts: EngineParts) -> None:
        self.costs = parts.costs
        self.limits = parts.limits
        self.cache = parts.cache
        self.emulation = parts.emulation
        self.faults = parts.faults
        self.turns = parts.turns
        self.generations: dict[str, Generation] = {}
        self.total_tokens = 0
        self._blocked = 0
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    # --- called by the HTTP server ------------------------------------------------------------------------------------

    def submit(self, request: GenerationRequest, adapter: LoadedAdapter | None = None, weights: str = "") -> Generation:
        """Accept a request.

        Args:
            request: the request.
            adapter: its LoRA adapter; None for none.
            weights: revision of the module that computes its prompt; empty for the worker's own model.

        Raises:
            InvalidValueError: the request has no room, or its id is in flight already.
        """
        if request.room is None:
            message = f"Disaggregated request received without bootstrap room id. req.rid={request.rid!r}"
            raise InvalidValueError(message, request.endpoint)
        if request.rid in self.generations:
            raise InvalidValueError(f"Duplicate request ID detected: {request.rid}", request.endpoint)
        generation = Generation(request, adapter, weights)
        self.generations[request.rid] = generation
        self._idle.clear()
        self._begin(generation)
        self.wake()
        return generation

    async def close_bootstrap(self) -> None:
        """Close the bootstrap port; a decode worker has none."""
        return

    def abort(self, rid: str, *, everything: bool = False) -> None:
        """Abort a request and every other request whose id begins with its id, as SGLang does.

        An id that is not in flight aborts nothing, even if ids begin with it (managers/tokenizer_manager.py).

        Args:
            rid: id of the request.
            everything: abort all requests.
        """
        if not everything and rid not in self.generations:
            return
        for generation in [g for g in self.generations.values() if everything or g.request.rid.startswith(rid)]:
            if generation.finish is None:
                self._abort(generation)
        self.wake()

    def release(self, generation: Generation) -> None:
        """Drop a generation whose client has its reply or is gone; abort it if it still runs."""
        if generation.finish is None:
            self._abort(generation)
        if self.generations.get(generation.request.rid) is generation:
            del self.generations[generation.request.rid]
            if generation.adapter is not None:
                generation.adapter.release()
        if not self.generations:
            self._idle.set()
        self.wake()

    @property
    def is_blocked(self) -> bool:
        """Whether it does no work for now."""
        return self._blocked > 0

    @property
    def used_adapters(self) -> int:
        """Number of LoRA adapters that requests in flight use."""
        return len({g.request.adapter for g in self.generations.values()} - {None})

    def queued_modules(self) -> Mapping[str, int]:
        """Return the number of prompts that wait for a batch, by module; a decode worker has none."""
        return {}

    async def wait_idle(self) -> None:
        """Wait until no request is in flight."""
        await self._idle.wait()

    def flush(self) -> bool:
        """Forget every cached prefix. Return False, and do nothing, while a request is in flight."""
        if self.generations:
            return False
        self.cache.clear()
        return True

    async def block(self, seconds: float) -> None:
        """Do no work for some seconds: SGLang's scheduler reads an adapter between two batches."""
        if not seconds:
            return
        self._blocked += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._blocked -= 1
            self.wake()

    @abstractmethod
    def load(self) -> dict[str, Any]:
        """Return the counts of `/v1/loads`: running, waiting, waiting_tokens, used, and the disaggregation queues."""

    # --- implemented by a role ----------------------------------------------------------------------------------------

    @abstractmethod
    def _begin(self, generation: Generation) -> None:
        """Start the work for a request."""

    @abstractmethod
    def _abort(self, generation: Generation) -> None:
        """End the work for a request now."""

    @abstractmethod
    def _step(self, now: float) -> float | None:
        """Do the work that is due. Return the time of the next call; None to be called at the next `wake`."""

    @abstractmethod
    async def start(self) -> None:
        """Open the sockets and start the tasks of the role."""

    @abstractmethod
    async def close(self) -> None:
        """Close and cancel them."""

    # --- time -----------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Make the scheduler step now, because its input changed."""
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
        """Return the costs, multiplied by the factor of an active `slow` fault."""
        slow = self.faults.active("slow")
        return self.costs.slowed(slow.factor) if slow else self.costs

    def call_later(self, seconds: float, call: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """Call a function after some seconds.

        Args:
            seconds: delay.
            call: the function.
            args: its arguments.
        """
        return asyncio.get_running_loop().call_later(seconds, call, *args)


def die() -> None:
    """End the process as SIGKILL would: write nothing and clean up nothing."""
    os._exit(1)


def transfer_error(stage: str, generation: Generation, why: str) -> str:
    """Return SGLang's message for a request that failed between its two workers.

    After `disaggregation/prefill.py` and `disaggregation/decode.py`.

    Args:
        stage: the stage that failed, such as `Decode transfer`.
        generation: the generation.
        why: the reason.
    """
    owner = "decode_req.req" if stage.startswith("Decode") else "req"
    room, rid = generation.request.room, generation.request.rid
    return (
        f"{stage} failed for request rank=0 {owner}.rid={rid!r} {owner}.bootstrap_room={room} with exception "
        f"KVTransferError(bootstrap_room={room}): {why}"
    )
