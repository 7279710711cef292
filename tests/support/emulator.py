"""Emulated workers in the test's process. A test that waits for a timeout makes that timeout short, and no other."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sun_sglang.checkpoint.adapter.read import read_adapter
from sun_sglang.contracts.adapter import AdapterRef
from sun_sglang.contracts.module import ModuleLimits
from sun_sglang.emulator.protocol.fake_tokens import expected_tokens
from sun_sglang.emulator.settings import parse_settings
from sun_sglang.emulator.worker import EmulatedWorker
from tests.support.adapters import write_adapter
from tests.support.ports import PORTS

VOCAB = 1000
# long: a process that gets no CPU for a while must not count as dead
QUICK = {
    "heartbeat_interval": 60,
    "waiting_timeout": 60,
    "bootstrap_timeout": 60,
    "lookup_attempts": 2,
    "lookup_pause": 0.01,
    "lookup_timeout": 60,
    "disconnect_poll": 0.01,
    "vocab_size": VOCAB,
}

# flags of a worker that accepts the adapters of `make_adapter`
LORA = ("--enable-lora", "--max-lora-rank", "8", "--lora-target-modules", "q_proj", "o_proj")

Start = Callable[..., Awaitable[EmulatedWorker]]


def make_adapter(
    directory: Path,
    content: int = 0,
    *,
    rank: int = 2,
    modules: Sequence[str] = ("self_attn.q_proj", "self_attn.v_proj"),
) -> AdapterRef:
    """Write a small LoRA adapter in place of an earlier one, and return its description.

    Args:
        directory: where.
        content: another number makes another revision.
        rank: its rank.
        modules: the layers that it changes.
    """
    write_adapter(directory, rank=rank, modules=modules, config={"lora_alpha": content + 1})
    return read_adapter(directory)


def flags(role: str, model: str, *more: str, **emulation: Any) -> list[str]:
    """Return the command line of a worker.

    Args:
        role: `prefill` or `decode`.
        model: its model path.
        more: further flags and their values.
        emulation: settings of the emulator that differ from `QUICK`.
    """
    argv = ["--model-path", model, "--disaggregation-mode", role, "--port", "0"]
    argv += ["--disaggregation-bootstrap-port", str(next(PORTS)), "--disaggregation-decode-enable-radix-cache"]
    kv = emulation.pop("max_total_tokens", None)
    argv += ["--max-total-tokens", str(kv)] if kv else []
    for name, value in (QUICK | emulation).items():
        argv += ["--sim-" + name.replace("_", "-"), str(value)]
    return [*argv, *more]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start workers; the fixture stops them."""
    workers: list[EmulatedWorker] = []

    async def start(
        role: str, model: str, *more: str, modules: ModuleLimits | None = None, **emulation: Any
    ) -> EmulatedWorker:
        settings = parse_settings(flags(role, model, *more, **emulation))
        worker = EmulatedWorker(settings.model_copy(update={"modules": modules}))
        await worker.start()
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        await worker.stop()


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session:
        yield session


def url(worker: EmulatedWorker) -> str:
    return f"http://127.0.0.1:{worker.server.port}"


def legs(prefill: EmulatedWorker, prompt: list[int], length: int, **fields: Any) -> dict[str, Any]:
    """Return the body of both legs of a request."""
    return {
        "rid": f"{random.getrandbits(128):032x}",
        "input_ids": prompt,
        "sampling_params": {"max_new_tokens": length},
        "bootstrap_host": "127.0.0.1",
        "bootstrap_port": prefill.card.bootstrap_port,
        "bootstrap_room": random.getrandbits(62) + 1,
        **fields,
    }


def expected(prefill: EmulatedWorker, prompt: list[int], length: int, *, adapter: str = "") -> list[int]:
    return expected_tokens(prefill.card.identity.weights, prompt, length, VOCAB, adapter=adapter)


async def post(client: aiohttp.ClientSession, worker: EmulatedWorker, body: dict[str, Any]) -> tuple[int, Any]:
    async with client.post(f"{url(worker)}/generate", json=body) as reply:
        return reply.status, await reply.json()


async def ask(
    client: aiohttp.ClientSession,
    prefill: EmulatedWorker,
    decode: EmulatedWorker,
    prompt: list[int],
    length: int,
    **fields: Any,
) -> tuple[tuple[int, Any], tuple[int, Any]]:
    """Send both legs of a request; return the status and the body of each reply."""
    body = legs(prefill, prompt, length, **fields)
    first, second = await asyncio.gather(post(client, prefill, body), post(client, decode, body))
    return first, second


def at_rest(*workers: EmulatedWorker) -> bool:
    """Return whether no worker has a request running, waiting or held."""
    counters = ("total", "decode_moments")
    return all(
        not worker.engine.generations and not any(v for k, v in worker.engine.load().items() if k not in counters)
        for worker in workers
    )
