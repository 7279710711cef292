"""Cost models corrected by a measured point, and those of AIConfigurator."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from sun_sglang.plan.calibrate import MeasuredPoint, calibrated
from sun_sglang.plan.outcome import PlanError
from sun_sglang.plan.step_times import fit_costs
from sun_sglang.sim.cost_model import CostModel

COSTS = CostModel(decode_step=0.01, decode_per_context_token=1e-7, prefill=0.02, prefill_per_token=1e-5)


def test_calibration_makes_the_measured_step_and_prompt_as_long_as_measured() -> None:
    point = MeasuredPoint("run.json", tpot=0.0169, requests=4, context=4608, ttft=0.3, prompt=4096)
    corrected = calibrated(COSTS, point)
    assert corrected.costs.decode_seconds(4, 4 * 4608) == pytest.approx(0.0169)
    assert corrected.costs.prefill_seconds([4096]) == pytest.approx(0.3)
    assert corrected.costs.kv_tokens == COSTS.kv_tokens
    waited = calibrated(COSTS, replace(point, ttft=None))
    assert waited.costs.prefill_seconds([4096]) == COSTS.prefill_seconds([4096])
    assert waited.factor == corrected.factor


@pytest.mark.parametrize(
    ("gpu", "model", "message"),
    [
        ("v100", "Qwen/Qwen3-8B", r"--gpu: unknown GPU `v100`; known: .*`h100_sxm`"),
        ("h100", "gpt2", r"--model: unknown model `gpt2`; known: .*`Qwen/Qwen3-8B`"),
        ("h200", "nvidia/Llama-3_3-Nemotron-Super-49B-v1", "--model: unknown model"),
        ("h200", "nvidia/Llama-3.1-70B-Instruct-FP8", "--model: unknown model"),
        ("h200", "nvidia/Nemotron-H-56B-Base-8K", "--model: unknown model"),
        ("h100", "meta-llama/Llama-3.1-405B", r"do not fit into 1 x h100_sxm; set `engine.tp_size`"),
        ("l4", "Qwen/Qwen3-8B", r"no step times of Qwen/Qwen3-8B on l4"),
    ],
)
def test_unknown_gpu_or_model_fails_with_those_that_are_known(gpu: str, model: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        fit_costs(gpu, model)


def test_fitted_costs_of_a_known_gpu_are_those_of_its_tables() -> None:
    fitted = fit_costs("a100", "meta-llama/Llama-3.1-8B-Instruct")
    assert fitted.gpu == "a100_sxm"
    # 14.7 ms by AIConfigurator at batch 16 and a context of 1000
    assert fitted.costs.decode_seconds(16, 16_000) == pytest.approx(0.0147, rel=0.08)
    assert fitted.decode.mean < 0.05
    assert fitted.prefill.most < 0.05
    assert 400_000 < fitted.costs.kv_tokens < 500_000


def test_step_times_without_the_extra_fail_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiconfigurator_core", None)
    with pytest.raises(PlanError, match=r"pip install 'sun-sglang\[plan\]'"):
        fit_costs("h100", "Qwen/Qwen3-8B")
