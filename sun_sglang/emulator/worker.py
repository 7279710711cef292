"""One emulated worker: SGLang's protocol for separate prefill and decode, over a cost model, in about 50 MB.

    python -m sun_sglang.emulator.worker --model-path NAME --disaggregation-mode prefill --port 30000 ...

Accepts SGLang's flags, most of which have no effect, and `--sim-*` flags of its own (`settings.py`).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence

from sun_sglang.checkpoint.kv.size import kv_bytes_per_token
from sun_sglang.checkpoint.locate import find_checkpoint
from sun_sglang.contracts.module import MODULES_VARIABLE, read_module_limits
from sun_sglang.contracts.worker_card import Identity
from sun_sglang.contracts.worker_key import read_key
from sun_sglang.emulator.api.server import Server
from sun_sglang.emulator.engine.adapter_files import AdapterFiles
from sun_sglang.emulator.engine.adapters import AdapterRegistry
from sun_sglang.emulator.engine.decode import DecodeEngine
from sun_sglang.emulator.engine.engine import Engine, EngineParts
from sun_sglang.emulator.engine.module_files import ModuleFiles
from sun_sglang.emulator.engine.modules import ModuleRegistry
from sun_sglang.emulator.engine.prefill import PrefillEngine
from sun_sglang.emulator.fault_injection import Fault, FaultInjector
from sun_sglang.emulator.identity import TokenLimits, context_length, emulated_identity, make_card
from sun_sglang.emulator.protocol.reply_shapes import SHAPES
from sun_sglang.emulator.protocol.request_parser import RequestParser
from sun_sglang.emulator.settings import Settings, costs_path, parse_settings
from sun_sglang.errors import SunError, UserError
from sun_sglang.module_turns.turns import Turns
from sun_sglang.sim.adapter_slots import AdapterSlots
from sun_sglang.sim.cost_model import CostModel, load_costs
from sun_sglang.sim.prefix_cache import PrefixCache


class EmulatedWorker:
    """One worker in this process; `server.port` is its HTTP port once it has started.

    Args:
        settings: the worker's settings.

    Raises:
        CheckpointError: `settings.model` is a checkpoint that cannot be read.
        CostError: the cost file is wrong.
        UserError: a decode worker has settings of modules.
    """

    def __init__(self, settings: Settings) -> None:
        path = costs_path(settings.emulation)
        costs = load_costs(path) if path else CostModel()
        identity = emulated_identity(settings)
        limits = TokenLimits(context_length(settings), settings.max_total_tokens or costs.kv_tokens)
        self.settings = settings
        self.card = make_card(settings, identity, limits)
        self.faults = FaultInjector()
        slots = AdapterSlots(settings.adapters.slots) if settings.adapters is not None else None
        turns = _turns(settings, identity)
        self.engine = _engine(settings, costs, identity, limits, self.faults, slots, turns)
        self.adapters = self._adapters(settings, slots)
        self.modules = self._modules(settings, identity)
        parser = RequestParser(
            bytes_per_token=settings.emulation.bytes_per_token,
            vocab_size=identity.vocab_size,
            context=limits.context,
            longest_request=limits.request,
            longest_prompt=limits.prompt,
            shapes=SHAPES[settings.emulation.sglang],
            served_model_name=settings.served_model_name,
            adapters_enabled=self.adapters is not None,
        )
        self.server = Server(settings, self.card, self.engine, parser, self.faults, self.adapters, self.modules)
        self._first_fault = settings.emulation.fault
        self._engine_task: asyncio.Task[None] | None = None

    def _adapters(self, settings: Settings, slots: AdapterSlots | None) -> AdapterRegistry | None:
        if settings.adapters is None or slots is None:
            return None

        files = AdapterFiles(find_checkpoint(settings.model, settings.revision))

        async def spend() -> None:
            await self.engine.block(self.engine.current_costs().lora_load)

        return AdapterRegistry(settings.adapters, slots, self.faults, files=files, spend=spend)

    def _modules(self, settings: Settings, identity: Identity) -> ModuleRegistry | None:
        if settings.modules is None:
            return None
        model = find_checkpoint(settings.model, settings.revision)
        return ModuleRegistry(
            settings.modules,
            identity.weights,
            self.faults,
            files=ModuleFiles(model, settings.emulation.module_size, settings.engine),
            copy_seconds=lambda: self.engine.current_costs().module_load,
        )

    async def start(self) -> None:
        """Start the engine and the HTTP server, and activate the fault of the settings."""
        await self.engine.start()
        self._engine_task = asyncio.create_task(self.engine.run())
        await self.server.start()
        if self._first_fault:
            await self.server.inject(Fault.model_validate_json(self._first_fault))

    async def stop(self) -> None:
        """End everything at once, requests in flight included."""
        await self.server.stop()
        if self._engine_task is not None:
            self._engine_task.cancel()
            await asyncio.gather(self._engine_task, return_exceptions=True)
        await self.engine.close()


def _engine(
    settings: Settings,
    costs: CostModel,
    identity: Identity,
    limits: TokenLimits,
    faults: FaultInjector,
    slots: AdapterSlots | None,
    turns: Turns | None,
) -> Engine:
    cache = PrefixCache(page_size=identity.page_size or 1, kv_tokens=limits.kv)
    parts = EngineParts(costs, limits, cache, settings.emulation, faults, slots, turns)
    if settings.role == "decode":
        return DecodeEngine(parts, weights=identity.weights, caches_prompts=settings.decode_cache)
    assert settings.bootstrap_port is not None, "a prefill worker has a bootstrap port"
    return PrefillEngine(
        parts,
        weights=identity.weights,
        vocab_size=identity.vocab_size,
        kv_bytes=kv_bytes_per_token(identity),
        host=settings.host,
        port=settings.bootstrap_port,
    )


def _turns(settings: Settings, identity: Identity) -> Turns | None:
    if settings.modules is None:
        return None
    if settings.role != "prefill":
        raise UserError(f"{MODULES_VARIABLE} is set, and only prefill workers keep modules; unset it")
    return Turns(identity.weights, slo=settings.modules.ttft_slo, now=time.monotonic())


async def serve(settings: Settings) -> None:
    """Run one worker until SIGTERM or SIGINT, and then until no request is in flight."""
    worker = EmulatedWorker(settings)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await worker.start()
    await stopping.wait()
    await worker.server.drain()
    await worker.stop()


def main(argv: Sequence[str] | None = None) -> None:
    """Run `python -m sun_sglang.emulator.worker`."""
    import uvloop

    try:
        settings = parse_settings(sys.argv[1:] if argv is None else argv)
        of_environment = {"key": read_key(os.environ), "modules": read_module_limits(os.environ)}
        uvloop.run(serve(settings.model_copy(update=of_environment)))
    except SunError as e:
        sys.exit(f"emulated worker: {e}")


if __name__ == "__main__":
    main()
