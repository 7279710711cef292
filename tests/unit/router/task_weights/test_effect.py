from __future__ import annotations

import math
import random
import struct
from collections.abc import Sequence

import pytest

from sun_sglang.contracts.adapter import rms
from sun_sglang.router.task_weights.effect import effect_fault, effect_of, recorded_effect
from tests.unit.router.fake_adapters import fingerprint

RECORDED = fingerprint("sun-a")
EXPECTED = recorded_effect(RECORDED)


def bfloat16(values: Sequence[float], rng: random.Random) -> list[float]:
    """Return values as a worker in bfloat16 reports them: with noise of kernels, and eight bits of mantissa."""
    noisy = [value + rng.gauss(0, 0.02) for value in values]
    return [struct.unpack(">f", struct.pack(">f", value)[:2] + b"\0\0")[0] for value in noisy]


@pytest.mark.invariant("I23")
@pytest.mark.parametrize("seed", range(20))
def test_effect_of_the_recorded_adapter_with_noise_of_bfloat16_is_accepted(seed: int) -> None:
    rng = random.Random(seed)
    measured = effect_of(bfloat16(RECORDED.adapter, rng), bfloat16(RECORDED.base, rng))
    assert effect_fault(measured, EXPECTED, "its fingerprint", "adapter") == ""


@pytest.mark.invariant("I23")
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("other", ["swapped", "absent", "half", "scaled"])
def test_effect_of_another_adapter_than_the_recorded_one_is_refused(other: str, seed: int) -> None:
    rng = random.Random(seed)
    adapter = {
        "swapped": fingerprint("sun-b").adapter,
        "absent": RECORDED.base,
        # every other layer is missing: half of the effect
        "half": [b + e / 2 for b, e in zip(RECORDED.base, EXPECTED, strict=True)],
        "scaled": [b + 2 * e for b, e in zip(RECORDED.base, EXPECTED, strict=True)],
    }[other]
    measured = effect_of(bfloat16(adapter, rng), bfloat16(RECORDED.base, rng))
    assert effect_fault(measured, EXPECTED, "its fingerprint", "adapter").startswith(
        "another adapter than that of its fingerprint"
    )


@pytest.mark.parametrize(
    ("measured", "expected", "why"),
    [
        ((0.0, 0.0), None, "the adapter has no effect: log probabilities change by 0 (rms)"),
        ((5e-4, -5e-4), None, "the adapter has no effect"),
        ((0.0, 2e-3), None, ""),
        ((0.1, 0.2), (0.1, 0.2), ""),
        ((0.1, 0.2, 0.3), (0.1, 0.2), "another adapter than that of p0"),
        ((math.nan, 0.2), (0.1, 0.2), "another adapter than that of p0"),
        ((0.1, 0.2), (0.0, 1e-4), "p0 shows no effect of the adapter"),
    ],
)
def test_fault_of_an_effect_names_its_cause(
    measured: tuple[float, ...], expected: tuple[float, ...] | None, why: str
) -> None:
    found = effect_fault(measured, expected, "p0", "adapter")
    assert found.startswith(why)
    assert bool(found) == bool(why)


def test_rms_of_values() -> None:
    assert rms(()) == 0.0
    assert rms((3.0, -4.0)) == pytest.approx(math.sqrt(12.5))
