"""`sun_quantize.json`: the file beside quantized weights that records what they were made of."""

from __future__ import annotations

from collections.abc import Mapping

from sun_sglang.quantize.job import Algorithm
from sun_sglang.strict import Strict

ORIGIN = "sun_quantize.json"


class Origin(Strict):
    """How quantized weights were made.

    Attributes:
        source: revision of the weights that were quantized (`checkpoint/weights.py`).
        algorithm: the algorithm.
        bits: bits of a weight.
        group_size: inputs that share one scale.
        calibration: name of the calibration data; empty where none was used.
        samples: samples that were calibrated on.
        tokens: tokens of these samples.
        seed: seed of their draw.
        versions: version of each package that matters.
    """

    source: str
    algorithm: Algorithm
    bits: int
    group_size: int
    calibration: str
    samples: int
    tokens: int
    seed: int
    versions: Mapping[str, str]
