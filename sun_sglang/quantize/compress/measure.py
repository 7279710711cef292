"""Compare a quantized model with its source on samples that it was not calibrated on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from sun_sglang.quantize.job import Quality, Tokens

Done = Callable[[int, int], None]
_POSITIONS = 64
"""Most positions of a sample whose logits are kept: a vocabulary may have 256,000 tokens."""


@dataclass(frozen=True)
class Recorded:
    """What the source computed of one sample.

    Attributes:
        tokens: the sample.
        hidden: the hidden states before each decoder layer and after the last, [tokens, hidden size] each.
        logits: at the compared positions, float32 [positions, vocabulary].
    """

    tokens: Tokens
    hidden: tuple[torch.Tensor, ...]
    logits: torch.Tensor


@torch.inference_mode()
def record(model: Any, samples: Sequence[Tokens], done: Done) -> list[Recorded]:
    """Run the source on the samples, and return what it computed.

    Args:
        model: the causal LM.
        samples: token ids.
        done: called with the number of samples that are done and of all.
    """
    found = []
    for number, tokens in enumerate(samples, 1):
        hidden: list[torch.Tensor] = []

        def keep(_: int, before: torch.Tensor, after: torch.Tensor, hidden: list[torch.Tensor] = hidden) -> None:
            hidden.extend([after] if hidden else [before, after])

        with _outputs_of_layers(model, keep):
            logits = _logits(model, tokens)
        found.append(Recorded(tokens, tuple(hidden), logits))
        done(number, len(samples))
    return found


@torch.inference_mode()
def compare(model: Any, reference: Sequence[Recorded], done: Done) -> Quality:
    """Return how far a model is from the recorded one.

    Args:
        model: the quantized causal LM.
        reference: what the source computed; at least one sample.
        done: called with the number of samples that are done and of all.

    Raises:
        ArithmeticError: a difference is not finite.
    """
    layers = len(_layers(model))
    wrong, whole = [0.0] * layers, [0.0] * layers
    logits_wrong = logits_whole = divergence = 0.0
    agreed = positions = 0
    for number, sample in enumerate(reference, 1):

        def add(layer: int, before: torch.Tensor, after: torch.Tensor, sample: Recorded = sample) -> None:
            right = sample.hidden[layer + 1].float()
            wrong[layer] += float((after.float() - right).square().sum())
            whole[layer] += float((right - before.float()).square().sum())

        with _outputs_of_layers(model, add, sample.hidden):
            _logits(model, sample.tokens)
        logits = _logits(model, sample.tokens)
        logits_wrong += float((logits - sample.logits).square().sum())
        logits_whole += float(sample.logits.square().sum())
        right_log, log = sample.logits.log_softmax(-1), logits.log_softmax(-1)
        divergence += float((right_log.exp() * (right_log - log)).sum())
        agreed += int((logits.argmax(-1) == sample.logits.argmax(-1)).sum())
        positions += len(logits)
        done(number, len(reference))
    errors = [math.sqrt(a / b) if b else 0.0 for a, b in zip(wrong, whole, strict=True)]
    found = Quality(
        layers=tuple(errors),
        logits=math.sqrt(logits_wrong / logits_whole),
        # rounding may put equal distributions below zero
        divergence=max(0.0, divergence / positions),
        agreement=agreed / positions,
        positions=positions,
    )
    if not all(map(math.isfinite, (*found.layers, found.logits, found.divergence))):
        raise ArithmeticError("the quantized model computes values that are not finite")
    return found


def _layers(model: Any) -> Sequence[torch.nn.Module]:
    layers: Sequence[torch.nn.Module] = model.get_decoder().layers
    return layers


def _logits(model: Any, tokens: Tokens) -> torch.Tensor:
    ids = torch.tensor([tokens], device=model.device)
    # fewer positions than tokens are at least one apart, so that none is there twice
    kept = torch.linspace(0, len(tokens) - 1, min(_POSITIONS, len(tokens))).long()
    logits: torch.Tensor = model(input_ids=ids, use_cache=False, logits_to_keep=kept.to(ids.device)).logits[0]
    return logits.float().cpu()


@contextmanager
def _outputs_of_layers(
    model: Any,
    found: Callable[[int, torch.Tensor, torch.Tensor], None],
    given: Sequence[torch.Tensor] | None = None,
) -> Iterator[None]:
    """Call `found` with the number of each decoder layer and the hidden states before and after it.

    Args:
        model: a causal LM.
        found: called on each layer.
        given: hidden states to give to the layers in place of their own.
    """
    handles = []
    for number, layer in enumerate(_layers(model)):
        before: list[torch.Tensor] = []

        def enter(
            _: Any, args: Any, kwargs: Any, number: int = number, before: list[torch.Tensor] = before
        ) -> tuple[Any, Any]:
            own = args[0] if args else kwargs.pop("hidden_states")
            hidden = own if given is None else given[number].unsqueeze(0).to(own)
            before[:] = [hidden[0].cpu()]
            return (hidden, *args[1:]), kwargs

        def leave(_: Any, __: Any, output: Any, number: int = number, before: list[torch.Tensor] = before) -> None:
            after = output[0] if isinstance(output, tuple) else output
            found(number, before[0], after[0].cpu())

        handles += [layer.register_forward_pre_hook(enter, with_kwargs=True), layer.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
