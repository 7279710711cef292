"""The stages, in the order in which they run: each later one relies on what the earlier ones prove.

One file holds the stages of one property. To add a stage, write a function that takes a `Context` and returns its
measurements, and add a `Stage` to the `STAGES` of its file. Not here: deployments, checkpoints and reports that stages
share (`..deployment`, `..models`, `..report`). Open `exactness.py` first.
"""

from __future__ import annotations

from sun_sglang.bench.gpu_check.stage import Stage
from sun_sglang.bench.gpu_check.stages import (
    architectures,
    cache,
    exactness,
    faults,
    installation,
    latency,
    parallel,
    quantized,
    raw_copy,
)

STAGES: tuple[Stage, ...] = (
    *installation.STAGES,
    *raw_copy.STAGES,
    *exactness.STAGES,
    *cache.STAGES,
    *faults.STAGES,
    *quantized.STAGES,
    *architectures.STAGES,
    *parallel.STAGES,
    *latency.STAGES,
)
