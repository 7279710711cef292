"""The worker card: what a worker reports of itself at `GET /sun/worker`.

Written by SGLang workers (`worker/card_page.py`) and emulated workers (`emulator/identity.py`); read by the router
(`router/health/prober.py`). `kv_compatibility.py` compares the identities of two cards.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from sun_sglang.contracts.adapter import AdapterLimits
from sun_sglang.contracts.module import ModuleLimits
from sun_sglang.contracts.scheme import Side

WORKER_CARD_PATH: Final = "/sun/worker"
# Every value has a bound, so that no card from the network can exhaust the router's memory or end one of its loops.
Name = Annotated[str, StringConstraints(max_length=256)]
Detail = Annotated[str, StringConstraints(max_length=1 << 16)]
Size = Annotated[int, Field(ge=1, le=1 << 20)]
Tokens = Annotated[int, Field(ge=1, le=1 << 40)]
Port = Annotated[int, Field(ge=1, le=65535)]


class Identity(BaseModel):
    """The properties that must be equal on both sides of a KV transfer, and the weights, which may differ.

    Attributes:
        architecture: `architectures[0]` of `config.json`.
        num_layers: hidden layers.
        num_kv_heads: KV heads per layer.
        head_dim: size of one head.
        vocab_size: rows of the embedding.
        rope: RoPE parameters as canonical JSON.
        kv_cache_dtype: SGLang's flag of this name, as a worker resolves it; SGLang compares this string.
        kv_dtype: dtype of the KV cache: the meaning of the flag for this model.
        kv_scales: digest of the scales of 8-bit KV; empty without scales, `1.0` if every scale is one.
        page_size: tokens per KV page; 0 if SGLang decides it at start.
        tp_size: ranks among which one token's KV heads are split: the tensor-parallel ranks of one attention group.
        any_tp: whether the KV may go to a worker with another `tp_size`.
        pp_size: pipeline ranks.
        tokenizer: digest of the tokenizer.
        chat_template: digest of the chat template; empty without one.
        sglang: version of SGLang: the messages of a KV transfer differ between versions.
        weights: revision of the weights; part of the cache namespace, never compared.
        decoder: identity of these weights as a decoder, for which prefill modules are tuned: their revision, and the
            quantization by flags.
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
    """The state of one hook on SGLang in one process.

    Attributes:
        name: name of the patch.
        target: dotted path of the hooked function.
        state: `applied`; `inactive`, if the process does not need the hook; `moved`, if the target is missing or has
            other parameters; `missing`, if a caller of the target does not run the hook.
        detail: the reason, if the state is not `applied`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    target: Name
    state: Literal["applied", "missing", "moved", "inactive"]
    detail: Detail = ""


class WorkerCard(BaseModel):
    """The reply of `GET /sun/worker`. The router sends no request to a worker whose card it has not read.

    Attributes:
        role: `prefill` or `decode`.
        incarnation: a new random value for each start.
        bootstrap_port: port to which decode workers connect; None on a decode worker.
        identity: the properties that must agree with the other side.
        patches: the state of every hook, as the scheduler processes reported it.
        max_input_tokens: longest prompt that this worker accepts, in tokens.
        context_length: most tokens of prompt and answer together.
        kv_tokens: size of the KV cache in tokens.
        leaving: the worker is stopping, and ends when its requests have ended.
        module_flags: the flags with which equal weights compute different KV, as JSON.
        keeps_answers: whether its cache keeps the KV of answers, which its own module made; True on a decode worker
            that does not report it.
        caches_prompts: whether it keeps the KV of prompts, so that an equal prompt is computed once.
        token_bytes: most bytes of text per token; None if there is no bound.
        dp_size: data-parallel ranks, each with its own scheduler and cache.
        tuned_for: revision of the decoder for which its weights were tuned; empty if they were not tuned.
        tuned_on: revision of the prefill weights on whose KV a decode worker's weights were tuned; empty if on none.
        first_token: the side that makes the first output token in the scheme with which its weights were tuned;
            `prefill` if they were not tuned. `contracts/first_token.py` decides for a pair.
        adapters: the LoRA adapters that it accepts; None if it accepts none.
        modules: how it keeps modules of tasks and changes between them; None if it serves its own model alone.
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
    caches_prompts: bool = True
    token_bytes: Tokens | None = None
    dp_size: Size = 1
    tuned_for: Name = ""
    tuned_on: Name = ""
    first_token: Side = "prefill"
    adapters: AdapterLimits | None = None
    modules: ModuleLimits | None = None

    def has_hook(self, name: str) -> bool:
        """Return whether the worker has a hook. An emulated worker reports no hooks, and does what they do."""
        return not self.patches or any(hook.name == name for hook in self.patches)

    @property
    def decoder(self) -> str:
        """Revision of its weights as a decoder."""
        return self.identity.decoder or self.identity.weights

    @property
    def module(self) -> str:
        """Revision of this worker's module: equal modules compute equal KV for equal tokens."""
        flags = hashlib.sha256(self.module_flags.encode()).hexdigest()[:8] if self.module_flags else ""
        return f"{self.identity.weights}.{flags}" if flags else self.identity.weights
