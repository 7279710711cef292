"""A prefill worker's refusal because it does not have the weights of a task that the router named. Pure.

The router gave the worker these weights, so the client is not at fault: the worker lost them, or could not read them
again.
"""

from __future__ import annotations

from sun_sglang.contracts.module import NOT_HELD, ModuleRef, TaskWeights
from sun_sglang.router.protocol.worker_replies import error_message

# Beginnings of SGLang's messages (lora/lora_registry.py: acquire, managers/tokenizer_manager.py: _resolve_lora_path,
# _validate_and_resolve_lora). Only the beginning counts: the rest of a message may hold a client's text.
_OF_ADAPTERS = (
    "The following requested LoRA adapters are not loaded: {name}",
    "Got LoRA adapter that has never been loaded: {name}",
    "Failed to implicitly load LoRA adapter {name}:",
    "LoRA adapter '{name}' was requested, but LoRA is not enabled",
)


def lacks_weights(body: bytes, weights: TaskWeights) -> bool:
    """Return whether the body of a refusal says that the worker does not have these weights."""
    message = error_message(body)
    if isinstance(weights, ModuleRef):
        return message.startswith(NOT_HELD.format(revision=weights.revision))
    return any(message.startswith(text.format(name=weights.name)) for text in _OF_ADAPTERS)
