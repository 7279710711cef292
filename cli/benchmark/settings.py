"""The flags of `sun bench` -> its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import typer

from sun_sglang.bench.load.errors import FlagError, flag_name
from sun_sglang.bench.load.metrics.goodput import parse_goodput
from sun_sglang.bench.load.workload.settings import WorkloadSettings, workload_settings
from sun_sglang.bench.serving.settings import BenchSettings, Swept, bench_settings
from sun_sglang.bench.serving.systems.cores import parse_cores
from sun_sglang.cli.bench import DEFAULT_CONCURRENCY

_SWEPT: Mapping[str, Callable[[str], Swept]] = {
    "request_rate": float,
    "concurrency": int,
    "zipf": float,
    "isl": str,
    "osl": str,
}
_FIRST_RATE = 1.0


def read_lists(flags: Mapping[str, Any]) -> dict[str, tuple[Swept, ...]]:
    """Return the values of those flags that take several; of a flag that is not given, none.

    Args:
        flags: the value of each flag by its name with underscores.

    Raises:
        BadParameter: a value is no number.
    """
    return {name: _parsed(name, flags[name]) for name in _SWEPT if flags[name] is not None}


def read_settings(
    flags: Mapping[str, Any], lists: Mapping[str, tuple[Swept, ...]], tasks: Sequence[str]
) -> BenchSettings:
    """Return the settings that the flags of `sun bench` give.

    Args:
        flags: the value of each flag by its name with underscores.
        lists: the values of those that take several.
        tasks: the tasks that are measured.

    Raises:
        BenchError: a value is wrong, or a flag has no effect.
    """
    values = {name: value for name, value in flags.items() if name in WorkloadSettings.model_fields}
    values["input_file"] = tuple(flags["input_file"] or ())
    values["tasks"] = tuple(tasks)
    values |= {name: found[0] for name, found in lists.items()}
    if flags["find_max_rate"]:
        _require_search(flags, lists)
        values["request_rate"] = values["request_rate"] or _FIRST_RATE
    elif flags["goodput_ratio"] != BenchSettings.model_fields["goodput_ratio"].default:
        raise FlagError("goodput_ratio", "needs --find-max-rate")
    if values["request_rate"] is None and values["concurrency"] is None and not values["input_file"]:
        values["concurrency"] = DEFAULT_CONCURRENCY
    names = ("request_timeout_seconds", "max_client_lag", "num_profile_runs", "find_max_rate", "goodput_ratio")
    return bench_settings(
        workload=workload_settings(**values),
        goodput=parse_goodput(flags["goodput"]) if flags["goodput"] else {},
        cores=parse_cores(flags["cores"]) if flags["cores"] else {},
        sweep={name: found for name, found in lists.items() if len(found) > 1},
        **{name: flags[name] for name in names},
    )


def _parsed(name: str, text: str) -> tuple[Swept, ...]:
    """Return the values of a flag: one, or several with commas."""
    try:
        return tuple(_SWEPT[name](part.strip()) for part in text.split(","))
    except ValueError as e:
        kind = "whole numbers" if _SWEPT[name] is int else "numbers"
        raise typer.BadParameter(f"{flag_name(name)}: {text!r} is not a number, or {kind} with commas") from e


def _require_search(flags: Mapping[str, Any], lists: Mapping[str, tuple[Swept, ...]]) -> None:
    if not flags["goodput"]:
        raise FlagError("find_max_rate", 'needs --goodput, such as --goodput "time_to_first_token:500"')
    if len(lists.get("request_rate", ())) > 1:
        raise FlagError("request_rate", "--find-max-rate tries rates itself; give the first one, or leave it out")
