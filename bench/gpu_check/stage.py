"""A stage of the check, and its result."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sun_sglang.bench.gpu_check.context import Context
from sun_sglang.bench.gpu_check.errors import CheckError, Skipped
from sun_sglang.bench.polling import ConditionNotMetError

Outcome = Literal["passed", "failed", "skipped"]
# characters of a message to keep: its beginning names the failure, its end the cause
_BEGINNING, _END = 500, 3500


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: value of the option `--stage`.
        title: the property that it proves, for the table.
        run: proves it and returns its measurements; raises `CheckError` or `Skipped`.
        gpus: GPUs that it needs where workers run on GPUs; it is skipped where there are fewer.
    """

    name: str
    title: str
    run: Callable[[Context], Mapping[str, Any]]
    gpus: int = 0


@dataclass(frozen=True)
class StageResult:
    """The result of a stage.

    Attributes:
        name: the stage's name.
        title: the property that it proves.
        outcome: `passed`, `failed` or `skipped`.
        seconds: its duration.
        measured: its measurements and facts, as JSON values.
        message: why it failed or was skipped.
    """

    name: str
    title: str
    outcome: Outcome
    seconds: float
    measured: Mapping[str, Any] = field(default_factory=dict)
    message: str = ""


def run_stage(stage: Stage, context: Context) -> StageResult:
    """Run a stage and return its result; every exception becomes a failed result."""
    start = time.monotonic()

    def result(outcome: Outcome, message: str = "", measured: Mapping[str, Any] | None = None) -> StageResult:
        seconds = round(time.monotonic() - start, 1)
        return StageResult(stage.name, stage.title, outcome, seconds, measured or {}, _shortened(message))

    if context.device == "cuda" and stage.gpus > len(context.gpus):
        return result("skipped", f"needs {stage.gpus} GPUs and has {len(context.gpus)}")
    try:
        measured = dict(stage.run(context))
        json.dumps(measured, allow_nan=False)  # else the report could not be written
    except Skipped as e:
        return result("skipped", str(e))
    except (CheckError, ConditionNotMetError) as e:
        return result("failed", str(e))
    except Exception:  # a broken stage must not prevent the others
        return result("failed", traceback.format_exc())
    return result("passed", measured=measured)


def _shortened(message: str) -> str:
    left_out = len(message) - _BEGINNING - _END
    return message if left_out <= 0 else f"{message[:_BEGINNING]}\n[{left_out} characters]\n{message[-_END:]}"
