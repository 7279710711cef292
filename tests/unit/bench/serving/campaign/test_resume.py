from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sun_sglang.bench.load.drive.stop import Ending
from sun_sglang.bench.load.errors import BenchError
from sun_sglang.bench.serving.campaign.record import Record
from sun_sglang.bench.serving.campaign.resume import resume
from sun_sglang.bench.serving.result import BenchResult, read_result, write_result
from sun_sglang.bench.serving.settings import BenchSettings
from tests.support.bench_campaign import FakeSystem, campaign, record_of, settings
from tests.support.scripted_server import scripted_server
from tests.unit.bench.serving.campaign.test_campaign import answer

SWEEP: dict[str, Any] = {"sweep": {"zipf": (0.0, 1.0, 2.0)}, "concurrency": 1, "request_count": 1}


async def measured(chosen: BenchSettings, file: Path, *names: str, only: int | None = None) -> tuple[BenchResult, int]:
    """Continue a file; returns its content, and how many requests of the load were sent."""
    async with scripted_server(answer) as server:
        systems = [FakeSystem(name, server.url, []) for name in names or ("sun",)]
        record = record_of(chosen, systems, lambda result: write_result(result, file))
        resume(record, file)
        if only is not None:
            record.fail = lambda *_: None  # type: ignore[method-assign]  # the file stays as it was
            await campaign(chosen, systems, record=_ending_after(record, only))
        else:
            await campaign(chosen, systems, record=record)
    return read_result(file), sum(body.get("max_tokens") == 3 for body in server.bodies)


def _ending_after(record: Record, runs: int) -> Record:
    """Let a benchmark fail after some runs, as if the machine had been switched off."""
    add = record.add

    def add_some(*arguments: Any) -> None:
        add(*arguments)
        if len(record.result.runs) == runs:
            raise BenchError("switched off")

    record.add = add_some  # type: ignore[method-assign]  # a benchmark that ends in its middle
    return record


async def test_resume_same_command_measures_only_what_the_file_lacks(tmp_path: Path) -> None:
    file, chosen = tmp_path / "grid.json", settings(**SWEEP)
    first, sent = await measured(chosen, file, only=1)
    assert (len(first.runs), sent) == (1, 1)
    second, sent = await measured(chosen, file)
    assert (len(second.runs), sent) == (3, 2)
    assert second.points[0].systems["sun"].runs == first.points[0].systems["sun"].runs
    third, sent = await measured(chosen, file)
    assert (third, sent) == (second, 0)


async def test_resume_runs_that_were_cut_short_or_are_not_valid_are_measured_again(tmp_path: Path) -> None:
    file, chosen = tmp_path / "grid.json", settings(**SWEEP)
    whole, _ = await measured(chosen, file)
    points = list(whole.points)
    for number, change in ((0, {"ending": Ending.CUT_SHORT}), (2, {"valid": False})):
        system = points[number].systems["sun"]
        runs = (system.runs[0].model_copy(update=change),)
        points[number] = points[number].model_copy(
            update={"systems": {"sun": system.model_copy(update={"runs": runs})}}
        )
    write_result(whole.model_copy(update={"points": tuple(points)}), file)
    again, sent = await measured(chosen, file)
    assert (len(again.runs), sent) == (3, 2)
    assert again.points[1] == whole.points[1]


@pytest.mark.parametrize(
    ("changes", "names", "message"),
    [
        ({"sweep": {"zipf": (0.0, 1.0)}}, ("sun",), r"--zipf 0.0,1.0,2.0, and not 0.0,1.0; repeat the command"),
        ({"concurrency": 2}, ("sun",), "--concurrency 1, and not 2"),
        ({"num_profile_runs": 2}, ("sun",), "--num-profile-runs 1, and not 2"),
        ({"goodput": {"request_latency": 5.0}}, ("sun",), "--goodput {}, and not {'request_latency': 5.0}"),
        ({}, ("sun", "isolated"), "has a result of sun, and not sun, isolated"),
        ({}, ("isolated",), "has a result of sun, and not isolated"),
    ],
)
async def test_resume_file_of_another_benchmark_is_refused_and_stays(
    tmp_path: Path, changes: dict[str, Any], names: tuple[str, ...], message: str
) -> None:
    file = tmp_path / "grid.json"
    await measured(settings(**SWEEP), file)
    before = file.read_bytes()
    with pytest.raises(BenchError, match=message):
        await measured(settings(**{**SWEEP, **changes}), file, *names)
    assert file.read_bytes() == before


async def test_resume_file_that_is_no_result_is_refused_and_stays(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("my notes")
    with pytest.raises(BenchError, match=r"notes\.txt: "):
        await measured(settings(**SWEEP), file)
    assert file.read_text() == "my notes"


async def test_resume_one_run_replaces_the_file_of_one_run(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    one, two = (settings(concurrency=concurrency, request_count=2) for concurrency in (1, 2))
    await measured(one, file)
    result, sent = await measured(two, file)
    assert (result.settings, sent) == (two, 2)


async def test_resume_one_run_does_not_replace_a_grid(tmp_path: Path) -> None:
    file = tmp_path / "grid.json"
    await measured(settings(**SWEEP), file)
    with pytest.raises(BenchError, match=r"--zipf 0\.0,1\.0,2\.0, and not 0\.0"):
        await measured(settings(concurrency=1, request_count=1), file)


async def test_resume_system_whose_file_has_changed_is_refused(tmp_path: Path) -> None:
    file, chosen = tmp_path / "grid.json", settings(**SWEEP)
    before, _ = await measured(chosen, file)
    changed = before.systems[0].model_copy(update={"definition": {"pools": {}}})
    write_result(before.model_copy(update={"systems": (changed,)}), file)
    with pytest.raises(BenchError, match="sun has changed since"):
        await measured(chosen, file)


async def test_resume_on_another_machine_is_refused_and_with_another_version_noted(tmp_path: Path) -> None:
    file, chosen = tmp_path / "grid.json", settings(**SWEEP)
    before, _ = await measured(chosen, file)
    other = before.model_copy(update={"versions": {**before.versions, "aiohttp": "0"}, "revision": "old"})
    write_result(other, file)
    systems = [FakeSystem("sun", "", [])]
    record = record_of(chosen, systems)
    resume(record, file)
    assert any("more than one version of aiohttp: 0 and" in note for note in record.result.notes)
    assert any("more than one commit: old and" in note for note in record.result.notes)
    machine = before.machine.model_copy(update={"cores": 4096})
    write_result(before.model_copy(update={"machine": machine}), file)
    with pytest.raises(BenchError, match=r"another machine \(.*, 4096 cores\) than this"):
        resume(record_of(chosen, systems), file)
