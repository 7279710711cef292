"""Continue an earlier file: the same command again measures what the file lacks."""

from __future__ import annotations

from pathlib import Path

from sun_sglang.bench.load.drive.stop import Ending
from sun_sglang.bench.load.errors import FlagError, flag_name
from sun_sglang.bench.serving.campaign.record import Record
from sun_sglang.bench.serving.result import BenchResult, read_result
from sun_sglang.bench.serving.run_report import RunReport
from sun_sglang.bench.serving.settings import BenchSettings, Swept

_FIX = "repeat the command as it was, or name another file"


def resume(record: Record, file: Path) -> None:
    """Take over what an earlier file of the same benchmark has. Nothing where there is no file, or an empty one.

    A file with one run, of a benchmark of one run, is replaced. Runs that were cut short or are not valid are measured
    again.

    Raises:
        BenchError: the file is no result, or that of another benchmark.
    """
    if not file.exists() or file.stat().st_size == 0:
        return
    earlier, now = read_result(file), record.result
    if _is_one_run(earlier) and _is_one_run(now):
        return
    _require_same(earlier, now, file)
    record.take_over(earlier, keep=is_measured)
    if earlier.revision != now.revision:
        record.note(f"measured in parts, at more than one commit: {earlier.revision} and {now.revision}")
    for package in earlier.versions.keys() | now.versions.keys():
        old, new = earlier.versions.get(package), now.versions.get(package)
        if old != new:
            record.note(f"measured in parts, with more than one version of {package}: {old} and {new}")


def is_measured(run: RunReport) -> bool:
    """Return whether a run counts, so that it is not measured again."""
    return run.valid and run.ending is Ending.COMPLETE


def _is_one_run(result: BenchResult) -> bool:
    settings = result.settings
    single = len(result.systems) == len(result.points) == settings.num_profile_runs == 1
    return single and not settings.find_max_rate


def _require_same(earlier: BenchResult, now: BenchResult, file: Path) -> None:
    for name, (old, new) in _settings(earlier, now).items():
        if old != new:
            raise FlagError("output", f"{file} has a result of {flag_name(name)} {old}, and not {new}; {_FIX}")
    if [system.name for system in earlier.systems] != [system.name for system in now.systems]:
        raise FlagError("output", f"{file} has a result of {_names(earlier)}, and not {_names(now)}; {_FIX}")
    for old_system, new_system in zip(earlier.systems, now.systems, strict=True):
        if (old_system.kind, old_system.definition) != (new_system.kind, new_system.definition):
            raise FlagError("output", f"{old_system.name} has changed since {file} was written; {_FIX}")
    if [point.plan for point in earlier.points] != [point.plan for point in now.points]:
        raise FlagError("output", f"the plan has changed since {file} was written: another input file; {_FIX}")
    if str(earlier.machine) != str(now.machine):
        raise FlagError(
            "output", f"{file} was measured on another machine ({earlier.machine}) than this ({now.machine}); {_FIX}"
        )


def _settings(earlier: BenchResult, now: BenchResult) -> dict[str, tuple[object, object]]:
    """Return the values of each setting in both results; of a list, all values."""
    fields = [*type(now.settings).model_fields, *type(now.settings.workload).model_fields]
    names = [name for name in fields if name not in ("workload", "sweep")]
    return {name: (_value(earlier.settings, name), _value(now.settings, name)) for name in names}


def _value(settings: BenchSettings, name: str) -> object:
    lists: dict[str, tuple[Swept, ...]] = {**settings.sweep}
    if name in lists:
        return ",".join(map(str, lists[name]))
    return getattr(settings if name in type(settings).model_fields else settings.workload, name)


def _names(result: BenchResult) -> str:
    return ", ".join(system.name for system in result.systems)
