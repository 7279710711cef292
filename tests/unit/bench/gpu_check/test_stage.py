"""How a stage's end becomes a result."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from sun_sglang.bench.gpu_check.context import Context
from sun_sglang.bench.gpu_check.errors import CheckError, Skipped
from sun_sglang.bench.gpu_check.stage import Stage, StageResult, run_stage
from sun_sglang.bench.gpu_check.stages import STAGES

NewContext = Callable[..., Context]


def run(context: Context, action: Callable[[], Any], gpus: int = 0) -> StageResult:
    return run_stage(Stage("name", "title", lambda _: action(), gpus), context)


def fail(error: Exception) -> Callable[[], Any]:
    def action() -> Any:
        raise error

    return action


def test_stage_that_returns_measurements_passes_with_them(new_context: NewContext) -> None:
    result = run(new_context(), lambda: {"answers": 3})
    assert (result.name, result.title, result.outcome, result.message) == ("name", "title", "passed", "")
    assert result.measured == {"answers": 3}


def test_stage_that_raises_check_error_fails_with_its_message_alone(new_context: NewContext) -> None:
    result = run(new_context(), fail(CheckError("token 3 is wrong")))
    assert (result.outcome, result.message, result.measured) == ("failed", "token 3 is wrong", {})


def test_stage_that_raises_anything_fails_with_the_traceback(new_context: NewContext) -> None:
    result = run(new_context(), fail(KeyError("absent")))
    assert result.outcome == "failed"
    assert result.message.startswith("Traceback")
    assert "in action" in result.message
    assert result.message.strip().endswith("KeyError: 'absent'")


def test_stage_that_raises_skipped_is_skipped_with_the_reason(new_context: NewContext) -> None:
    result = run(new_context(), fail(Skipped("needs a driver")))
    assert (result.outcome, result.message) == ("skipped", "needs a driver")


def test_long_message_keeps_its_beginning_and_its_end(new_context: NewContext) -> None:
    result = run(new_context(), fail(CheckError("what failed" + "x" * 100_000 + "the cause")))
    assert result.message.startswith("what failed")
    assert result.message.endswith("the cause")
    assert len(result.message) < 10_000


@pytest.mark.parametrize(("gpus", "outcome"), [((0,), "skipped"), ((0, 1), "passed"), ((), "passed")])
def test_stage_of_two_gpus_is_skipped_on_one_and_runs_on_the_cpu(
    new_context: NewContext, gpus: tuple[int, ...], outcome: str
) -> None:
    result = run(new_context(*gpus), dict, gpus=2)
    assert result.outcome == outcome
    assert result.message == ("needs 2 GPUs and has 1" if outcome == "skipped" else "")


@pytest.mark.parametrize("figure", [{1, 2}, float("nan"), b"bytes"], ids=["set", "nan", "bytes"])
def test_figures_that_json_cannot_hold_fail_the_stage(new_context: NewContext, figure: Any) -> None:
    result = run(new_context(), lambda: {"figure": figure})
    assert (result.outcome, result.measured) == ("failed", {})
    assert "JSON" in result.message
    json.dumps(result.message)


def test_names_of_the_stages_are_unique() -> None:
    names = [stage.name for stage in STAGES]
    assert len(set(names)) == len(names)
