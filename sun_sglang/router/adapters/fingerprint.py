"""Is an adapter in effect? Compare what it changes on one prompt with what it should change. Pure.

Log probabilities are natural logarithms, one for each prompt token but the first. The *effect* of an adapter is their
difference from those of the base, on one worker: noise of the dtype and of kernels is in both, and cancels partly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import sub
from typing import TypeAlias

from sun_sglang.contracts.adapter import LEAST_EFFECT, Fingerprint, rms

Logprobs: TypeAlias = Sequence[float]

TOLERANCE = 0.3
"""Root mean square (rms) by which an effect may differ from the expected one, as a part of the expected one's rms."""


def effect_of(adapter: Logprobs, base: Logprobs) -> tuple[float, ...]:
    """Return the effect of an adapter: its log probabilities minus those of the base."""
    assert len(adapter) == len(base), "both are of one prompt"
    return tuple(map(sub, adapter, base))


def recorded_effect(fingerprint: Fingerprint) -> tuple[float, ...]:
    """Return the effect that was recorded with an adapter."""
    return effect_of(fingerprint.adapter, fingerprint.base)


def effect_fault(measured: Logprobs, expected: Logprobs | None, source: str) -> str:
    """Return why an effect is not that of the adapter, as a sentence; empty if it is.

    Args:
        measured: the effect on the worker.
        expected: the effect as it should be; None if nobody knows, so that any effect will do.
        source: where the expected effect comes from, as the object of a sentence.
    """
    if expected is None:
        found = rms(measured)
        if found > LEAST_EFFECT:
            return ""
        return f"the adapter has no effect: log probabilities change by {found:.2g} (rms), at most {LEAST_EFFECT:g}"
    size = rms(expected)
    if size <= LEAST_EFFECT:
        return f"{source} shows no effect of the adapter ({size:.2g} rms); record it with the adapter that is served"
    distance = rms(effect_of(measured, expected)) if len(measured) == len(expected) else math.inf
    # the negation is also true for a NaN
    if not distance <= TOLERANCE * size:
        return (
            f"another adapter than that of {source} is in effect, or none: its effect differs by {distance:.2g} (rms) "
            f"from one of {size:.2g}, and may differ by {TOLERANCE * size:.2g}"
        )
    return ""
