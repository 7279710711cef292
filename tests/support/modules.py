"""Modules of emulated workers, and what they compute."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sun_sglang.checkpoint.module.read import read_module
from sun_sglang.contracts.module import ModuleLimits, ModuleRef, TaskWeights
from sun_sglang.emulator.protocol.fake_tokens import expected_tokens
from sun_sglang.emulator.worker import EmulatedWorker
from tests.support.emulator import VOCAB, expected

LIMITS = ModuleLimits(host_bytes=1 << 40)


def make_module(directory: Path, content: int = 0) -> ModuleRef:
    """Write files that an emulated worker takes for a checkpoint, in place of earlier ones, and return the module.

    Args:
        directory: where.
        content: another number up to 255 makes another revision.
    """
    directory.mkdir(exist_ok=True)
    header = b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    (directory / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes([content]))
    (directory / "config.json").write_text("{}")
    return read_module(directory)


def expected_of(worker: EmulatedWorker, prompt: Sequence[int], length: int, weights: TaskWeights | None) -> list[int]:
    """Return the answer of a task with these weights on a prefill worker; None for the worker's own model."""
    if isinstance(weights, ModuleRef):
        return expected_tokens(weights.revision, prompt, length, VOCAB)
    return expected(worker, list(prompt), length, adapter=weights.revision if weights else "")
