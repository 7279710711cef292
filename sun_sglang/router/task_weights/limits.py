"""Rules: which weights of tasks a prefill worker accepts, by its card alone. Pure."""

from __future__ import annotations

from sun_sglang.contracts.adapter import AdapterRef
from sun_sglang.contracts.module import TaskWeights
from sun_sglang.contracts.worker_card import WorkerCard
from sun_sglang.strict import listed


def weights_fault(card: WorkerCard, weights: TaskWeights) -> str:
    """Return why a prefill worker with this card cannot serve weights, as a sentence; empty if it can.

    Whether a module has the shapes of the worker's own model is known to the worker alone, which compares them when it
    is given the module.
    """
    if isinstance(weights, AdapterRef):
        return _adapter_fault(card, weights)
    if card.modules is None:
        return "it serves its own model alone; set `modules: {}` in its pool"
    return ""


def _adapter_fault(card: WorkerCard, adapter: AdapterRef) -> str:
    limits, vocabulary = card.adapters, card.identity.vocab_size
    if limits is None:
        return "it accepts no adapters; set `enable_lora: true` in its pool's `engine`"
    if card.dp_size > 1:
        return f"it has {card.dp_size} data-parallel ranks, and SGLang loads adapters with one only"
    if adapter.base and adapter.base != card.identity.weights:
        return f"the adapter was made for weights {adapter.base}, and it has weights {card.identity.weights}"
    if adapter.rank > limits.max_rank:
        return f"the adapter has rank {adapter.rank}, and it accepts up to {limits.max_rank} (`max_lora_rank`)"
    # SGLang checks no ids, and one that has no row of the embedding ends its scheduler
    if adapter.fingerprint is not None and (token := max(adapter.fingerprint.tokens)) >= vocabulary:
        return f"the adapter's fingerprint has the token {token}, and the worker's vocabulary has {vocabulary} tokens"
    # `all` is SGLang's own name for every layer that supports adapters
    if "all" not in limits.target_modules:
        others = [name for name in adapter.target_modules if name not in limits.target_modules]
        if others:
            accepted = listed(limits.target_modules)
            return f"the adapter changes {listed(others)}, and it accepts {accepted} (`lora_target_modules`)"
    return ""
