"""A result of `sun bench` -> the measured point that corrects a cost model."""

from __future__ import annotations

from pathlib import Path

from sun_sglang.bench.serving.result import read_result
from sun_sglang.errors import UserError
from sun_sglang.plan.calibrate import MeasuredPoint
from sun_sglang.plan.outcome import PlanError


def measured_point(file: Path) -> MeasuredPoint:
    """Return the point that a result has.

    The mean batch of a decode worker follows from Little's law: output tokens a second times the seconds of a token.

    Raises:
        PlanError: the file is no result of `sun bench`, or has several systems or points, no valid run, or no number of
            decode workers.
    """
    try:
        result = read_result(file)
    except UserError as e:
        raise PlanError(f"--calibrate: {e}; give a file that `sun bench --output` has written") from e
    if len(result.points) > 1 or len(result.systems) > 1:
        raise PlanError(
            f"--calibrate: {file} has {len(result.points)} points of {len(result.systems)} systems; measure one point "
            "of one system"
        )
    system, point = result.systems[0], result.points[0].systems[result.systems[0].name]
    if not system.decode_workers:
        raise PlanError(f"--calibrate: {file} does not name the number of decode workers; measure a topology file")
    summary = {name: found.value for name, found in point.summary.items()}
    needed = ("inter_token_latency.avg", "output_token_throughput", "total_token_throughput", "request_throughput")
    missing = [name for name in needed if not summary.get(name)]
    if missing:
        raise PlanError(f"--calibrate: {file} has no valid run with `{missing[0]}`")
    tpot, output, total, rate = (summary[name] for name in needed)
    seconds = tpot / 1000
    prompt, answer = (total - output) / rate, output / rate
    alone = result.settings.workload.concurrency == 1
    ttft = summary["time_to_first_token.p50"] / 1000 if alone else None
    return MeasuredPoint(
        file.name, seconds, output * seconds / system.decode_workers, prompt + answer / 2, ttft, prompt
    )
