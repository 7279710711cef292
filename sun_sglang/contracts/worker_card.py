"""The worker card: what a worker reports of itself at `GET /sun/worker`.

Written by SGLang workers (`worker/card_page.py`) and emulated workers (`emulator/identity.py`); read by the router
(`router/health/prober.py`). `kv_compatibility.py` compares the identities of two cards.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from sun_sglang.contracts.scheme import Side

WORKER_CARD_PATH: Final = "/sun/worker"
# A card comes from another process, over the network. Every value has a bound, so that no card can exhaust the router's
# memory or end one of its loops.
Name = Annotated[str, StringConstraints(max_length=256)]
Detail = Annotated[str, StringConstraints(max_length=1 << 16)]
Size = Annotated[int, Field(ge=1, le=1 << 20)]
Tokens = Annotated[int, Field(ge=1, le=1 << 40)]
Port = Annotated[int, Field(ge=1, le=65535)]


class Identity(BaseModel):
    """Everything that must be equal on both sides of a KV transfer, plus the weights, which need not be.

    Attributes:
        architecture: `architectures[0]` of `config.json`.
        num_layers: hidden layers.
        num_kv_heads: KV heads a layer.
        head_dim: size of one head.
        vocab_size: rows of the embedding.
        rope: RoPE parameters as canonical JSON.
        kv_cache_dtype: SGLang's flag of this name as a worker resolves it, which SGLang compares.
        kv_dtype: dtype of the KV cache, which is what the flag means for this model.
        kv_scales: digest of the scales of 8-bit KV; empty where KV is not scaled, `1.0` where every scale is one.
        page_size: tokens a KV page; 0 where SGLang decides it at start.
        tp_size: ranks among which one token's KV heads are split: the tensor-parallel ranks of one attention group.
        any_tp: the KV may go to a worker with another `tp_size`.
        pp_size: pipeline ranks.
        tokenizer: digest of the tokenizer.
        chat_template: digest of the chat template; empty if there is none.
        sglang: version of SGLang: the messages of a KV transfer differ between versions.
        weights: revision of the weights; what makes a cache namespace, never compared.
        decoder: what a module is tuned for that is decoded by these weights: their revision, and how flags quantize
            them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: Name
    num_layers: Size
    num_kv_heads: Size
    head_dim: Size
    vocab_size: int = Field(ge=1, le=(1 << 31) - 1)
    rope: Detail
    kv_cache_dtype: Name = "auto"
    kv_dtype: Name
    kv_scales: Name = ""
    page_size: int = Field(ge=0, le=1 << 20)
    tp_size: Size
    any_tp: bool = False
    pp_size: Size = 1
    tokenizer: Name
    chat_template: Name
    sglang: Name
    weights: Name
    decoder: Name = ""


class PatchReport(BaseModel):
    """One hook on SGLang as a process found it. `detail` says what is wrong when `state` is not `applied`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    target: Name
    state: Literal["applied", "missing", "moved", "inactive"]
    detail: Detail = ""


class WorkerCard(BaseModel):
    """What a worker says of itself at `GET /sun/worker`; nothing is sent to a worker whose card has not been read.

    Attributes:
        role: `prefill` or `decode`.
        incarnation: a new random value each start.
        bootstrap_port: where a prefill worker meets decode workers; None on a decode worker.
        identity: what must agree with the other side.
        patches: the state of every hook, as the scheduler processes reported it.
        max_input_tokens: longest prompt that this worker takes.
        context_length: longest prompt and answer together.
        kv_tokens: size of the KV cache in tokens.
        leaving: it was told to end, and ends once its requests have.
        module_flags: the flags by which its weights give other KV than another worker's equal weights, as JSON.
        keeps_answers: its cache keeps the KV of answers, which its own module made; a decode worker that does not say
            is taken to.
        token_bytes: most bytes of text that one token may cover; None where there is no such number.
        dp_size: its data-parallel ranks, each with a scheduler and a cache of its own.
        tuned_for: revision of the decoder that its weights were tuned for; empty where they were not tuned.
        first_token: the side that makes the first output token in the scheme that its weights were tuned by.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    role: Literal["prefill", "decode"]
    incarnation: Name
    bootstrap_port: Port | None
    identity: Identity
    patches: tuple[PatchReport, ...] = Field(max_length=64)
    max_input_tokens: Tokens
    context_length: Tokens
    kv_tokens: Tokens
    leaving: bool = False
    module_flags: Detail = ""
    keeps_answers: bool = True
    token_bytes: Tokens | None = None
    dp_size: Size = 1
    tuned_for: Name = ""
    first_token: Side = "prefill"

    @property
    def module(self) -> str:
        """Revision of what makes this worker's KV: equal modules make equal KV for equal tokens."""
        flags = hashlib.sha256(self.module_flags.encode()).hexdigest()[:8] if self.module_flags else ""
        return f"{self.identity.weights}.{flags}" if flags else self.identity.weights
