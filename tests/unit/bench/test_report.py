"""The report of every benchmark: what a run and a median hold, and what the reader rejects."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from sun_sglang.bench import provenance
from sun_sglang.bench.provenance import Machine, git_revision
from sun_sglang.bench.report import RESULTS, Median, ReportError, Run, new_report, read_report, write_report

CHECKOUT = Path(__file__).parents[3]
# `sun eval` writes this one: the result of an evaluation, in the format of docs/evaluation.md
COMMITTED = sorted(file for file in (CHECKOUT / RESULTS).glob("*.json") if not file.name.startswith("demo_served"))


def repeated(*values: float) -> list[Run]:
    return [Run(case={"system": "sun"}, repetition=i, values={"ms": value}) for i, value in enumerate(values)]


@pytest.mark.parametrize("file", COMMITTED, ids=[file.stem for file in COMMITTED])
def test_committed_report_is_valid_and_names_a_benchmark_that_exists(file: Path) -> None:
    report = read_report(file)
    module = report.command.split()[2]
    assert report.command.startswith("python -m sun_sglang.bench.")
    path = CHECKOUT / "bench" / Path(*module.split(".")[2:])
    assert path.with_suffix(".py").exists() or (path / "__main__.py").exists()
    assert report.name == "_".join(path.relative_to(CHECKOUT / "bench").parts)
    assert report.runs


def test_written_report_reads_back_equal_with_a_line_for_each_run(tmp_path: Path) -> None:
    report = new_report("room_module", "python -m x", repeated(3.0, 1.0, 2.0), {"ms": "ms"}, seeds=[7])
    file = tmp_path / "new" / "report.json"
    write_report(report, file)
    assert read_report(file) == report
    assert sum('"repetition"' in line for line in file.read_text().splitlines()) == 3


def test_report_derives_the_median_and_its_spread_from_the_repetitions() -> None:
    report = new_report("a", "b", repeated(3.0, 1.0, 2.0), {"ms": "ms"})
    case: dict[str, str | int | float | bool] = {"system": "sun"}
    assert report.medians == (Median(case=case, quantity="ms", median=2.0, least=1.0, most=3.0, repetitions=3),)
    assert report.median("ms", case) == 2.0


def test_case_that_is_not_repeated_has_no_median_and_its_value_counts() -> None:
    report = new_report("a", "b", [Run(case={"seed": 1}, values={"percent": 97.0})], {"percent": "%"})
    assert report.medians == ()
    assert report.median("percent", {"seed": 1}) == 97.0
    with pytest.raises(KeyError, match="no `percent`"):
        report.median("percent", {"seed": 2})


@pytest.mark.parametrize(
    ("outcomes", "passed"),
    [((), False), (("skipped",), False), (("passed", "skipped"), True), (("passed", "failed"), False)],
)
def test_report_passes_where_a_run_passed_and_none_failed(outcomes: tuple[str, ...], passed: bool) -> None:
    runs = [Run.model_validate({"outcome": outcome}) for outcome in outcomes]
    assert new_report("a", "b", runs, {}).passed is passed


def broken(**changes: object) -> str:
    report = new_report("a", "b", repeated(3.0, 1.0), {"ms": "ms"}).model_dump(mode="json")
    return json.dumps({**report, **changes})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "JSON"),
        (broken(units={}), "no unit for: ms"),
        (broken(medians=[]), "the median of `ms` in {'system': 'sun'} does not follow from the runs"),
        (broken(more=1), "more: unknown key"),
        (broken(runs=[{"values": {"ms": "fast"}}]), "runs.0.values.ms"),
    ],
    ids=["json", "unit", "median", "key", "value"],
)
def test_reader_rejects_a_file_that_is_not_a_report_and_names_the_problem(
    tmp_path: Path, text: str, problem: str
) -> None:
    file = tmp_path / "report.json"
    file.write_text(text)
    with pytest.raises(ReportError) as error:
        read_report(file)
    assert str(error.value).startswith(f"{file}: ")
    assert problem in str(error.value)


def test_reader_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"none\.json: No such file"):
        read_report(tmp_path / "none.json")


def test_report_without_a_recorded_machine_reads_back(tmp_path: Path) -> None:
    report = new_report("a", "b", [], {}, machine=Machine(), versions={})
    write_report(report, tmp_path / "report.json")
    assert read_report(tmp_path / "report.json").machine == Machine()


def test_settings_with_tuples_read_back_as_lists(tmp_path: Path) -> None:
    report = new_report("a", "b", [Run(details={"range": (1, 2)})], {}, settings={"tasks": {"math": {"rates": (1, 2)}}})
    write_report(report, tmp_path / "report.json")
    assert read_report(tmp_path / "report.json") == report
    assert report.settings == {"tasks": {"math": {"rates": [1, 2]}}}
    assert report.runs[0].details == {"range": [1, 2]}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a checkout with one commit, whose code is this module's copy."""
    code = tmp_path / "bench" / "provenance.py"
    (tmp_path / "bench" / "results").mkdir(parents=True)
    code.write_text("")
    monkeypatch.setattr(provenance, "__file__", str(code))
    for name in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"):
        monkeypatch.delenv(name, raising=False)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "a")
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True).stdout


def test_revision_is_the_commit_also_where_a_report_was_written(checkout: Path) -> None:
    (checkout / "bench" / "results" / "new.json").write_text("{}")
    assert git_revision() == git(checkout, "rev-parse", "HEAD").strip()


@pytest.mark.parametrize("file", ["bench/provenance.py", "bench/new.py", "pyproject.toml"])
def test_revision_of_a_changed_checkout_is_none(checkout: Path, file: str) -> None:
    (checkout / file).write_text("changed")
    assert git_revision() is None


def test_revision_of_code_that_git_does_not_track_is_none(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = checkout / "venv" / "bench" / "provenance.py"
    monkeypatch.setattr(provenance, "__file__", str(installed))
    installed.parent.mkdir(parents=True)
    installed.write_text("")
    assert git_revision() is None
