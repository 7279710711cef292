"""The fingerprint of a LoRA adapter: its effect on one fixed prompt, recorded where the adapter is made.

The router compares it with the effect that a worker computes, before a task with the adapter is served
(`contracts/adapter.py`): a worker without the adapter answers too, and nothing else tells the difference.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch

from sun_sglang.checkpoint.adapter.base_fit import read_base_layers, require_fits
from sun_sglang.checkpoint.adapter.read import read_changes
from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.contracts.adapter import FINGERPRINT_FILE, LEAST_EFFECT, LOGPROBS, Fingerprint
from sun_sglang.contracts.module_file import read_served_module
from sun_sglang.errors import CheckpointError
from sun_sglang.train.checkpoint import load_model
from sun_sglang.train.quantized.supported import is_quantized

_TOKENS = 32
_SEED = 0


def prompt_tokens(vocabulary: int) -> tuple[int, ...]:
    """Return the prompt of all fingerprints of a vocabulary: random tokens from its middle half.

    Special tokens, which some models treat in their own way, are the first or the last of a vocabulary.

    Args:
        vocabulary: number of tokens.
    """
    draw = random.Random(_SEED)
    return tuple(draw.randrange(vocabulary // 4, max(vocabulary * 3 // 4, vocabulary // 4 + 1)) for _ in range(_TOKENS))


def measure_fingerprint(model: Any) -> Fingerprint:
    """Return the fingerprint of the adapter in a model of peft, with the model's dtype and on its device.

    Args:
        model: a `PeftModel` of a causal LM.

    Raises:
        CheckpointError: the adapter changes nothing, or a value is no log probability.
    """
    tokens = prompt_tokens(model.get_base_model().get_input_embeddings().num_embeddings)
    trains = model.training
    model.eval()
    try:
        adapter = _log_probabilities(model, tokens)
        with model.disable_adapter():
            base = _log_probabilities(model, tokens)
    finally:
        model.train(trains)
    least, most = LOGPROBS
    # a NaN is in no range
    if not all(least <= value <= most for value in (*adapter, *base)):
        raise CheckpointError(f"a log probability is not from {least:g} to 0: the base or the adapter is broken")
    found = Fingerprint(tokens=tokens, adapter=adapter, base=base)
    if found.effect <= LEAST_EFFECT:
        raise CheckpointError(
            f"the adapter has no effect (log probabilities change by {found.effect:.1g}, and more than "
            f"{LEAST_EFFECT:g} is needed): it was not trained"
        )
    return found


def make_fingerprint(adapter: Path, base: Path) -> Fingerprint:
    """Return the fingerprint of an adapter on its base, computed in float32 on the CPU.

    Args:
        adapter: directory of the adapter.
        base: directory of the model that the adapter was tuned on.

    Raises:
        CheckpointError: one of the two cannot be read, they do not belong together, the base is quantised, or the
            adapter changes nothing.
    """
    read_changes(adapter)
    if is_quantized(base):
        raise CheckpointError(f"{base}: is quantised; name the model in full precision that the adapter was tuned on")
    record = read_served_module(adapter)
    if record is not None and record.base and record.base != (revision := weights_revision(base)):
        raise CheckpointError(
            f"{adapter}: was tuned on the base with weights {record.base}, and {base} has weights {revision}; name its "
            "own base"
        )
    require_fits(adapter, read_base_layers(base))
    from peft import PeftModel

    model = PeftModel.from_pretrained(load_model(base), adapter)
    try:
        return measure_fingerprint(model)
    except CheckpointError as e:
        raise CheckpointError(f"{adapter}: {e}") from e


def write_fingerprint(fingerprint: Fingerprint, adapter: Path) -> Path:
    """Write the fingerprint beside an adapter in one step, and return its path.

    Raises:
        OSError: the file cannot be written.
    """
    path = adapter / FINGERPRINT_FILE
    part = path.with_suffix(".part")
    part.write_text(fingerprint.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return part.replace(path)


@torch.inference_mode()
def _log_probabilities(model: Any, tokens: tuple[int, ...]) -> tuple[float, ...]:
    """Return the log probability of each token but the first, given those before it."""
    ids = torch.tensor([tokens], device=next(model.parameters()).device)
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
    found = torch.log_softmax(logits, dim=-1).gather(1, ids[0, 1:, None])[:, 0]
    return tuple(found.tolist())
