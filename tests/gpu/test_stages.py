"""The stages of `make gpu-check`, as tests; skipped where no GPU is visible."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sun_sglang.bench.gpu_check.context import Context
from sun_sglang.bench.gpu_check.machine import stage_gpus
from sun_sglang.bench.gpu_check.stage import Stage, run_stage
from sun_sglang.bench.gpu_check.stages import STAGES
from sun_sglang.launch.planning.hardware.machine import detect_machine


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Context]:
    """Yield one context for all stages: they share the deployment that the first of them starts."""
    machine = detect_machine()
    gpus = stage_gpus(machine.gpus)
    if not gpus:
        pytest.skip(machine.gpu_problem or "no GPU is visible (`make gpu-check DEVICE=cpu` runs these on the CPU)")
    shared = Context(
        device="cuda", gpus=gpus, work=tmp_path_factory.mktemp("gpu"), engine={}, model=None, progress=print
    )
    with shared.closing:
        yield shared


@pytest.mark.gpu
@pytest.mark.timeout(600)  # the stage that starts the shared deployment waits up to 300 s for it
@pytest.mark.parametrize("stage", STAGES, ids=[stage.name for stage in STAGES])
def test_stage_on_a_gpu_passes(context: Context, stage: Stage) -> None:
    result = run_stage(stage, context)
    if result.outcome == "skipped":
        pytest.skip(result.message)
    assert result.outcome == "passed", result.message
