"""The identity, the token limits and the card of an emulated worker."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path
from typing import NamedTuple

from sun_sglang.checkpoint.identity import read_identity
from sun_sglang.checkpoint.json_file import read_json
from sun_sglang.checkpoint.locate import find_checkpoint
from sun_sglang.contracts.module_file import read_served_module
from sun_sglang.contracts.worker_card import Identity, WorkerCard
from sun_sglang.emulator.settings import Settings


class TokenLimits(NamedTuple):
    """The lengths that a worker accepts, in tokens.

    SGLang's scheduler keeps a request one token below the context and the KV cache, and a prompt five below that
    (managers/tp_worker.py).

    Attributes:
        context: longest context.
        kv: tokens of KV that fit.
    """

    context: int
    kv: int

    @property
    def request(self) -> int:
        """Most tokens of prompt and answer together."""
        return min(self.context - 1, self.kv - 1)

    @property
    def prompt(self) -> int:
        """The length from which on prompts are refused."""
        return self.request - 5


def emulated_revision(model: str, revision: str | None = None) -> str:
    """Return the revision of the weights of a model that is no checkpoint, which follows from its name.

    Args:
        model: the model's name.
        revision: the revision of the model that a worker was started with.
    """
    return hashlib.sha256(f"{model}@{revision or ''}".encode()).hexdigest()[:16]


def emulated_identity(settings: Settings) -> Identity:
    """Return the checkpoint's identity, or one that follows from the model's name where there is no checkpoint.

    Raises:
        CheckpointError: the checkpoint cannot be read.
    """
    found = find_checkpoint(settings.model, settings.revision)
    if found is not None:
        return read_identity(found, settings.engine, sglang=settings.emulation.sglang)
    flag = settings.engine.get("kv_cache_dtype") or "auto"
    dtype = (settings.engine.get("dtype") or "auto") if flag == "auto" else flag
    shape = settings.emulation
    return Identity(
        architecture=shape.architecture,
        num_layers=shape.num_layers,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        vocab_size=shape.vocab_size,
        rope="{}",
        kv_cache_dtype=flag,
        kv_dtype="bfloat16" if dtype == "auto" else dtype,
        page_size=int(settings.engine.get("page_size") or 0),
        tp_size=int(settings.engine.get("tp_size") or 1),
        any_tp=True,
        tokenizer="emulated",
        chat_template="",
        sglang=settings.emulation.sglang,
        weights=emulated_revision(settings.model, settings.revision),
    )


def context_length(settings: Settings) -> int:
    """Return the context length in tokens: the flag's, else the checkpoint's, else the emulation's."""
    if settings.context_length:
        return settings.context_length
    found = find_checkpoint(settings.model, settings.revision)
    return _context_of(found) if found is not None else settings.emulation.context_length


def make_card(settings: Settings, identity: Identity, limits: TokenLimits) -> WorkerCard:
    """Return the card of this start. An emulated worker has no hooks to report.

    Args:
        settings: the worker's settings.
        identity: its identity.
        limits: the lengths that it accepts.

    Raises:
        CheckpointError: the model's `sun.json` cannot be read.
    """
    found = find_checkpoint(settings.model, settings.revision)
    module = read_served_module(found) if found is not None else None
    untuned = settings.emulation.first_token if found is None else "prefill"
    return WorkerCard(
        role=settings.role,
        incarnation=uuid.uuid4().hex,
        bootstrap_port=settings.bootstrap_port,
        identity=identity,
        patches=(),
        max_input_tokens=limits.prompt - 1,
        context_length=limits.context,
        kv_tokens=limits.kv,
        keeps_answers=False,
        token_bytes=settings.emulation.bytes_per_token,
        tuned_for=module.decoder if settings.role == "prefill" and module is not None else "",
        tuned_on=module.tuned_on(identity.weights, identity.decoder)
        if settings.role == "decode" and module is not None
        else "",
        first_token=module.first_token if module is not None else untuned,
        adapters=settings.adapters,
        modules=settings.modules,
    )


def _context_of(checkpoint: Path) -> int:
    config = read_json(checkpoint / "config.json")
    text = config.get("text_config", config)
    return int(text.get("max_position_embeddings") or 2048)
