"""The flags of `sun plan` -> a plan as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console

from sun_sglang.bench.load.errors import FlagError
from sun_sglang.bench.load.metrics.goodput import parse_goodput
from sun_sglang.bench.load.workload.build import build as build_workload
from sun_sglang.bench.load.workload.planned import Plan
from sun_sglang.bench.load.workload.settings import WorkloadSettings, workload_settings
from sun_sglang.plan.comparison import SHARES, Costs, compare
from sun_sglang.plan.outcome import Objectives, PlanError, parse_objectives
from sun_sglang.plan.sizing import Load
from sun_sglang.plan.traffic import Arrival
from sun_sglang.sim.cost_model import load_costs
from sun_sglang.strict import listed
from sun_sglang.topology import Topology
from sun_sglang.topology_file import load_topology

_SECONDS, _WARMUP = 600.0, 60.0


def run_plan(flags: Mapping[str, Any], *, quiet: bool) -> dict[str, Any]:
    """Return the plan as JSON.

    Args:
        flags: the value of each flag by its name with underscores.
        quiet: show no progress.

    Raises:
        UserError: a flag or a file is wrong, or no number of workers meets the objectives.
    """
    topology = load_topology(flags["file"])
    objectives = parse_objectives(_goodput(flags["slo"]))
    ratio = flags["goodput_ratio"]
    if not 0 < ratio <= 1:
        raise FlagError("goodput_ratio", f"{ratio:g} is not above 0 and at most 1")
    costs = read_costs(flags, topology)
    names = _systems(flags["systems"], costs)
    plan, origin = read_load(flags, list(topology.tasks))
    arrivals = [Arrival(*plan.row(i)) for i in range(len(plan))]
    warmup = _warmup(flags)
    seconds = _seconds(flags, arrivals) + warmup
    load = Load(arrivals, seconds, objectives, ratio, warmup, flags["random_seed"])
    console = Console(stderr=True, quiet=quiet or not Console(stderr=True).is_terminal)
    with console.status("simulating ...") as status:
        planned = compare(
            topology,
            names,
            costs,
            load,
            most=flags["max_workers"],
            note=lambda text: status.update(f"simulating {text}"),
        )
    return {
        "tasks": len(topology.tasks),
        "requests": len(arrivals),
        "seconds": seconds,
        "requests_per_second": len(arrivals) / seconds,
        "output_tokens_per_second": sum(a.answer for a in arrivals) / seconds,
        "slo": _goodput(flags["slo"]),
        "goodput_ratio": ratio,
        "costs": {"source": costs.source, **costs.full.model_dump(exclude_defaults=True)},
        "load": origin,
        "systems": [one.as_json(seconds) for one in planned],
        "left_out": _left_out(flags["systems"], names),
    }


def read_load(flags: Mapping[str, Any], tasks: Sequence[str]) -> tuple[Plan, dict[str, Any]]:
    """Return the requests, and what they are made from.

    Raises:
        UserError: a flag, or a line of a trace, is wrong.
    """
    if not tasks:
        raise PlanError(f"{flags['file']}: the file has no task; give it one under `tasks:`")
    values = {name: value for name, value in flags.items() if name in WorkloadSettings.model_fields}
    values["input_file"] = tuple(flags["input_file"] or ())
    if not values["input_file"] and values["request_rate"] is None:
        raise PlanError("no load: give --request-rate, or a trace with --trace")
    trace = bool(values["input_file"])
    values["warmup_duration"] = _warmup(flags)
    if values["benchmark_duration"] is None:
        # of a trace, all
        values["benchmark_duration"] = 1e9 if trace else _SECONDS
    workload = build_workload(workload_settings(**{**values, "tasks": tuple(tasks)}))
    if not isinstance(workload, Plan):
        raise FlagError("input_file", "texts have no lengths in tokens here; give a trace, or --isl and --osl")
    if not workload.row(0).input_tokens:
        raise FlagError("input_file", "texts have no lengths in tokens here; give a trace, or --isl and --osl")
    return workload, workload.origin


def read_costs(flags: Mapping[str, Any], topology: Topology) -> Costs:
    """Return the cost models: of --gpu, of the cost files, or of the file's emulated workers.

    Raises:
        UserError: a file is wrong, or a GPU or a model is not known.
    """
    if flags["costs"] is not None and flags["gpu"] is not None:
        raise PlanError("--costs and --gpu both give step times; leave one out")
    if flags["model"] is not None and flags["gpu"] is None:
        raise PlanError("--model needs --gpu")
    tp = int(topology.engine.get("tp_size") or topology.engine.get("tp") or 1)
    quantized = None if flags["quantized_costs"] is None else load_costs(flags["quantized_costs"])
    if flags["gpu"] is not None:
        from sun_sglang.plan.step_times import fit_costs

        model = flags["model"] or next(p.model for p in topology.pools.values() if p.role == "decode")
        fitted = fit_costs(flags["gpu"], model, tp)
        costs = Costs(fitted.costs, quantized, tp, fitted.describe())
    else:
        path = flags["costs"] or (Path(topology.emulated.costs) if topology.emulated.costs else None)
        if path is None:
            raise PlanError("no step times: give --gpu, or a cost file with --costs")
        costs = Costs(load_costs(path), quantized, tp, path.name)
    if not costs.full.decode_step + costs.full.decode_per_request + costs.full.decode_per_context_token:
        raise PlanError(f"{costs.source}: a decode step takes no time; give the costs of a GPU with --costs or --gpu")
    if flags["calibrate"] is not None:
        from sun_sglang.cli.planning.measured import measured_point
        from sun_sglang.plan.calibrate import calibrated

        corrected = calibrated(costs.full, measured_point(flags["calibrate"]))
        if quantized is not None:
            # the point was measured in full precision
            quantized = quantized.slowed(corrected.factor)
        return Costs(corrected.costs, quantized, tp, f"{costs.source}, {corrected.describe()}")
    return costs


def _systems(text: str, costs: Costs) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise PlanError(f"--systems: name at least one of {listed(SHARES)}")
    if text == ",".join(SHARES) and costs.quantized is None:
        # nobody asked for this one by name
        names.remove("qsun")
    return names


def _left_out(text: str, names: Sequence[str]) -> dict[str, str]:
    missing = [name.strip() for name in text.split(",") if name.strip() and name.strip() not in names]
    return dict.fromkeys(missing, "give --quantized-costs: the costs of decode workers with 4-bit weights")


def _warmup(flags: Mapping[str, Any]) -> float:
    given = flags["warmup_duration"]
    if given is not None:
        return float(given)
    return 0.0 if flags["input_file"] else _WARMUP


def _seconds(flags: Mapping[str, Any], arrivals: Sequence[Arrival]) -> float:
    """Return the seconds that count: of a trace, at most up to its last request."""
    warmup = _warmup(flags)
    last = max(arrivals[-1].at - warmup, 1.0)
    given = flags["benchmark_duration"]
    if flags["input_file"]:
        return last if given is None else min(last, float(given))
    return _SECONDS if given is None else float(given)


def _goodput(text: str) -> dict[str, float]:
    try:
        return parse_goodput(text, [field.name for field in fields(Objectives)])
    except FlagError as e:
        raise FlagError("slo", e.problem) from e
