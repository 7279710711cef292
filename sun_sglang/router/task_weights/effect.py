"""Are the weights of a task in effect? Compare what they change on one prompt with what they should change. Pure.

Log probabilities are natural logarithms, one for each prompt token but the first. The *effect* of weights is the
difference of their log probabilities from those of the base, the pool's own model, on one worker: noise of the dtype
and of kernels is in both, and cancels partly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import sub
from typing import TypeAlias

from sun_sglang.contracts.adapter import LEAST_EFFECT, Fingerprint, rms
from sun_sglang.router.task_weights.kind import Kind

Logprobs: TypeAlias = Sequence[float]

TOLERANCE = 0.3
"""Root mean square (rms) by which an effect may differ from the expected one, as a part of the expected one's rms."""


def effect_of(measured: Logprobs, base: Logprobs) -> tuple[float, ...]:
    """Return the effect of weights: the log probabilities measured with them, minus those of the base."""
    assert len(measured) == len(base), "both are of one prompt"
    return tuple(map(sub, measured, base))


def recorded_effect(fingerprint: Fingerprint) -> tuple[float, ...]:
    """Return the effect that was recorded with an adapter."""
    return effect_of(fingerprint.adapter, fingerprint.base)


def effect_fault(measured: Logprobs, expected: Logprobs | None, source: str, kind: Kind) -> str:
    """Return why an effect is not that of the weights, as a sentence; empty if it is.

    Args:
        measured: the effect on the worker.
        expected: the effect as it should be; None if nobody knows, so that any effect will do.
        source: where the expected effect comes from, as the object of a sentence.
        kind: of the weights.
    """
    if expected is None:
        found = rms(measured)
        if found > LEAST_EFFECT:
            return ""
        return f"the {kind} has no effect: log probabilities change by {found:.2g} (rms), at most {LEAST_EFFECT:g}"
    size = rms(expected)
    if size <= LEAST_EFFECT:
        return f"{source} shows no effect of the {kind} ({size:.2g} rms); record it with the {kind} that is served"
    distance = rms(effect_of(measured, expected)) if len(measured) == len(expected) else math.inf
    # the negation is also true for a NaN
    if not distance <= TOLERANCE * size:
        return (
            f"another {kind} than that of {source} is in effect, or none: its effect differs by {distance:.2g} (rms) "
            f"from one of {size:.2g}, and may differ by {TOLERANCE * size:.2g}"
        )
    return ""
