"""A prefill worker's refusal because it does not have the adapter that the router named. Pure.

The router loaded the adapter, so the client is not at fault: the worker lost it, or could not read it again.
"""

from __future__ import annotations

from sun_sglang.router.protocol.worker_replies import error_message

# Beginnings of SGLang's messages (lora/lora_registry.py: acquire, managers/tokenizer_manager.py: _resolve_lora_path,
# _validate_and_resolve_lora). Only the beginning counts: the rest of a message may hold a client's text.
_MESSAGES = (
    "The following requested LoRA adapters are not loaded: {name}",
    "Got LoRA adapter that has never been loaded: {name}",
    "Failed to implicitly load LoRA adapter {name}:",
    "LoRA adapter '{name}' was requested, but LoRA is not enabled",
)


def lacks_adapter(body: bytes, name: str) -> bool:
    """Return whether the body of a refusal says that the worker does not have the adapter with this name."""
    message = error_message(body)
    return any(message.startswith(text.format(name=name)) for text in _MESSAGES)
