"""The report of a check: hooks, tests, bounds, the tables, and its exit code."""

from __future__ import annotations

import errno
import io
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sun_sglang.bench.engine_check import __main__ as command
from sun_sglang.bench.engine_check import environment as environments
from sun_sglang.bench.engine_check.checks import Case, Hook, Suite, parse_hooks, parse_junit
from sun_sglang.bench.engine_check.cpu_list import parse_pins
from sun_sglang.bench.engine_check.derivation import Change, Derivation, Deviation, RequirementChange
from sun_sglang.bench.engine_check.environment import Environment, disk_usage, prepare
from sun_sglang.bench.engine_check.errors import ConflictError, EngineCheckError, NotOfferedError
from sun_sglang.bench.engine_check.registry import pip_error
from sun_sglang.bench.engine_check.report import Report, bounds_to_move, sections, summary, to_markdown

JUNIT = """<?xml version="1.0" encoding="utf-8"?><testsuites><testsuite>
<testcase classname="tests.engine.test_api" name="test_a[x]" time="1.5" />
<testcase classname="tests.engine.test_api" name="test_b" time="0.5">
<failure message="assert 1 == 2&#10;  + where 1 = f()">text</failure></testcase>
<testcase classname="tests.engine.test_cache" name="test_c" time="0"><skipped message="no GPU" /></testcase>
<testcase classname="" name="tests.engine.test_fields" time="0"><error message="collection failure">ImportError while
importing
    from x import y
E   ImportError: no x
</error></testcase>
</testsuite></testsuites>"""

PATCHES = [
    {"name": "a", "target": "sglang.a", "versions": {"1.0": "does it"}, "state": "applied", "detail": ""},
    {"name": "b", "target": "sglang.b", "versions": {"2.0": "is inactive"}, "state": "inactive", "detail": "native"},
    {"name": "c", "target": "sglang.c", "versions": {"2.0": "does it"}, "state": "moved", "detail": "c is gone"},
    {"name": "d", "target": "sglang.d", "versions": {"2.0": "is inactive: native"}, "state": "applied", "detail": ""},
    {"name": "e", "target": "sglang.e", "versions": {"2.0": "does it"}, "state": "inactive", "detail": "has a GPU"},
    {
        "name": "f",
        "target": "sglang.f",
        "versions": {"1.0": "is inactive: native", "2.0": "does it"},
        "state": "inactive",
        "detail": "native",
    },
]


def report(**changes: Any) -> Report:
    derivation = Derivation(
        version="2.0",
        before="1.0",
        pins=parse_pins("sglang==2.0\ntorch==2.13.0\n"),
        changes=(Change("sglang", "1.0", "2.0", "the version to check"),),
        deviations=(Deviation("torch", "2.13.0", "==2.14.1", "a | b"),),
        requirements=(RequirementChange("gone", "gone==1", None, "not installed"),),
    )
    good = Report(
        derivation=derivation,
        bounds=(),
        hooks=(Hook("a", "sglang.a", "does it", "applied", ""), Hook("b", "sglang.b", None, "inactive", "native")),
        tests=Suite((Case("test_api.py", "test_a", "passed", 2.0),), 0),
        environment_seconds=90,
        environment_bytes=3_700_000_000,
        tests_seconds=200,
    )
    return replace(good, **changes)


def test_junit_is_read_by_file_with_the_message_of_each_failure() -> None:
    assert parse_junit(JUNIT) == (
        Case("test_api.py", "test_a[x]", "passed", 1.5),
        Case("test_api.py", "test_b", "failed", 0.5, "assert 1 == 2 + where 1 = f()"),
        Case("test_cache.py", "test_c", "skipped", 0.0, "no GPU"),
        Case("test_fields.py", "tests.engine.test_fields", "failed", 0.0, "ImportError: no x"),
    )


def test_hooks_show_what_is_declared_for_the_version_and_what_was_found() -> None:
    hooks = parse_hooks({"findings": [], "patches": PATCHES}, "2.0")
    assert [(h.declared, h.found, h.ok) for h in hooks] == [
        (None, "applied", True),
        ("is inactive", "inactive", True),
        ("does it", "moved", False),
        ("is inactive: native", "applied", False),
        ("does it", "inactive", True),
        ("does it", "inactive", False),
    ]


def test_hooks_of_an_engine_that_cannot_be_imported_are_not_right() -> None:
    trouble = {"what": "patches", "state": "bad", "detail": "SGLang cannot be imported: no x"}
    hooks = parse_hooks({"findings": [trouble], "patches": [{**PATCHES[0], "state": "unknown"}]}, "2.0")
    assert (hooks[0].ok, hooks[0].why) == (False, "SGLang cannot be imported: no x")


@pytest.mark.parametrize(
    ("changes", "ok"),
    [
        ({}, True),
        ({"hooks": (Hook("c", "sglang.c", None, "moved", "c is gone"),)}, False),
        ({"hooks": (Hook("c", "sglang.c", None, "missing", "runs without it"),)}, False),
        ({"hooks": (Hook("c", "sglang.c", "does it", "inactive", "no GPU here"),)}, True),
        ({"hooks": (Hook("c", "sglang.c", "does it", "inactive", "native", by_version=True),)}, False),
        ({"tests": Suite((Case("f", "t", "failed", 1.0, "no"),), 1)}, False),
        ({"tests": Suite((Case("f", "t", "passed", 1.0),), 3)}, False),
    ],
)
def test_check_is_right_where_every_hook_and_every_test_is(changes: dict[str, Any], ok: bool) -> None:
    made = report(**changes)
    assert made.ok is ok
    assert made.to_json()["ok"] is ok
    assert ("passed;" in summary(made)) is ok


def test_markdown_has_a_table_for_each_section_and_says_where_one_is_empty() -> None:
    made = report(tests=Suite(parse_junit(JUNIT), 1))
    page = to_markdown(made)
    assert "| sglang | 1.0 | 2.0 | the version to check |" in page
    assert "| torch | 2.13.0 | ==2.14.1 | a \\| b |" in page, "a bar in a cell ends no cell"
    assert "| gone | gone==1 | - | not installed |" in page
    assert "| b | not tested on 2.0 yet | inactive | native |" in page
    assert "| test_api.py | 1 | 1 | 0 | 2 |" in page
    assert "| test_api.py::test_b | assert 1 == 2 + where 1 = f() |" in page
    assert "## Bounds to move in pyproject.toml\n\nNone.\n" in page
    assert "3.7 GB, made in 90 s" in page
    for section in sections(made):
        assert all(len(row) == len(section.columns) for row in section.rows)


def test_json_has_everything_as_plain_values() -> None:
    made = report(tests=Suite(parse_junit(JUNIT), 1)).to_json()
    assert json.loads(json.dumps(made)) == made
    assert made["pins"] == {"sglang": "2.0", "torch": "2.13.0"}
    assert made["tests"]["results"][1]["message"] == "assert 1 == 2 + where 1 = f()"


def test_bounds_that_exclude_a_pin_are_found_in_every_extra() -> None:
    pyproject = """[project]
dependencies = ["rich>=13", "aiohttp"]
[project.optional-dependencies]
engine = ["nixl==1.5.1", "sglang==1.0"]
train = ["transformers>=5,<5.15", "torch>=2.8"]
"""
    pinned = parse_pins("sglang==2.0\ntransformers==5.19.0\ntorch==2.13.0\nrich==15\n")
    assert list(bounds_to_move(pyproject, pinned)) == [
        ("engine", "sglang==1.0", "2.0"),
        ("train", "transformers<5.15,>=5", "5.19.0"),
    ]


@pytest.mark.parametrize(
    ("stdout", "stderr", "kind", "message"),
    [
        (
            "",
            "WARNING: x\nERROR: Could not find a version that satisfies the requirement sglang==9 "
            "(from versions: 0.1, 0.2, 0.3, 0.4)\nERROR: No matching distribution found for sglang==9\n",
            NotOfferedError,
            "offers no sglang==9 .*newest are 0.2, 0.3, 0.4",
        ),
        (
            "",
            "ERROR: Could not find a version that satisfies the requirement a==1 (from versions: none)\n"
            "ERROR: No matching distribution found for a==1",
            NotOfferedError,
            "no version at all, or cannot be reached",
        ),
        (
            "x\nThe conflict is caused by:\n    a 1 depends on b==1\n    The user requested (constraint) b==2\n\n"
            "To fix this you could try to:\n",
            "ERROR: ResolutionImpossible",
            ConflictError,
            r"^a 1 depends on b==1; The user requested \(constraint\) b==2$",
        ),
        ("", "WARNING: x\nERROR: disk full\nERROR: y", EngineCheckError, "^pip failed: disk full$"),
        ("", "Traceback\nMemoryError", EngineCheckError, "^pip failed: MemoryError$"),
    ],
)
def test_failed_pip_is_one_error(stdout: str, stderr: str, kind: type[Exception], message: str) -> None:
    error = pip_error(stdout, stderr)
    assert type(error) is kind
    with pytest.raises(kind, match=message):
        raise error


class FakePip:
    """Stands in for `subprocess.run`; fails at the first command that has a word."""

    def __init__(self, fails_at: str = "") -> None:
        self.commands: list[Sequence[str]] = []
        self.fails_at = fails_at

    def __call__(self, command: Sequence[str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        if "venv" in command:
            (Path(command[-1]) / "bin").mkdir()
            (Path(command[-1]) / "bin" / "python").touch()
        failed = bool(self.fails_at) and self.fails_at in command
        return subprocess.CompletedProcess(command, int(failed), "", "ERROR: no space left" if failed else "")


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Environment, FakePip]]:
    def make(pins: str, fails_at: str = "") -> tuple[Environment, FakePip]:
        pip = FakePip(fails_at)
        monkeypatch.setattr(environments.subprocess, "run", pip)
        return prepare(tmp_path / "venv", tmp_path, pins, "pytest==9\n", lambda _: None), pip

    return make


def test_environment_is_made_once_for_the_same_pins(make: Callable[..., tuple[Environment, FakePip]]) -> None:
    first, _ = make("torch==1\n")
    again, pip = make("torch==1\n")
    assert again == first
    (command,) = pip.commands
    assert "--editable" in command, "the checkout's own metadata may have changed"
    assert "venv" in make("torch==2\n")[1].commands[0]


@pytest.mark.parametrize("fails_at", ["--constraint", "--requirement", "--editable"])
def test_environment_that_cannot_be_made_leaves_nothing(
    make: Callable[..., tuple[Environment, FakePip]], tmp_path: Path, fails_at: str
) -> None:
    with pytest.raises(EngineCheckError, match="the environment cannot be made: pip failed: no space left"):
        make("torch==1\n", fails_at)
    assert not (tmp_path / "venv").exists()
    make("torch==1\n")


def test_environment_that_was_interrupted_is_made_anew(
    make: Callable[..., tuple[Environment, FakePip]], tmp_path: Path
) -> None:
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "half").touch()
    make("torch==1\n")
    assert not (tmp_path / "venv" / "half").exists()


def test_disk_usage_counts_a_file_with_two_names_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    once = disk_usage(tmp_path)
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    assert disk_usage(tmp_path) == once >= 100_000


@pytest.mark.parametrize(("status", "expected"), [(0, 0), (1, 1)])
def test_command_writes_the_report_and_exits_with_the_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, expected: int
) -> None:
    made = report(tests=Suite((Case("test_api.py", "test_a", "passed", 2.0),), status))
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "derive_lists", lambda *_: (made.derivation, "torch==1\n", ""))
    monkeypatch.setattr(command, "prepare", lambda *_: Environment(Path(sys.executable), 90, 3_700_000_000))
    monkeypatch.setattr(command, "check_hooks", lambda *_: made.hooks)
    monkeypatch.setattr(command, "check_tests", lambda *_: made.tests)
    assert command.main(["2.0"]) == expected
    folder = tmp_path / "build" / "engine-check" / "2.0"
    assert (folder / "engine-cpu.txt").read_text() == "torch==1\n"
    assert json.loads((folder / "report.json").read_text())["ok"] is (expected == 0)
    assert (folder / "report.md").read_text().startswith("# SGLang 2.0\n")


def test_command_for_an_unknown_version_prints_one_line_and_leaves_no_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise NotOfferedError("sglang==0.5.99", ("0.5.22", "0.5.23"))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "derive_lists", refuse)
    assert command.main(["0.5.99"]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("engine-check: the package registry offers no sglang==0.5.99")
    assert not [path for path in tmp_path.rglob("*") if path.is_dir() and path.name == "0.5.99"]


@pytest.mark.parametrize(
    ("raised", "status", "shown"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x"), 1, "No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_command_that_cannot_go_on_prints_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    raised: BaseException,
    status: int,
    shown: str,
) -> None:
    def end(*_: object) -> None:
        raise raised

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "derive_lists", end)
    assert command.main(["2.0"]) == status
    (line,) = capsys.readouterr().out.splitlines()
    assert shown in line


def test_second_check_of_a_version_is_refused_and_that_of_another_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = []

    def meanwhile(_: Path, version: str, __: object) -> None:
        if version == "2.0":
            codes.append([command.main(["2.0"]), command.main(["3.0"])])
        raise EngineCheckError(f"the end of {version}")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "derive_lists", meanwhile)
    command.main(["2.0"])
    assert codes == [[1, 1]]
    assert [line.removeprefix("engine-check: ") for line in capsys.readouterr().out.splitlines()] == [
        "another check of 2.0 is running in this checkout; wait until it ends",
        "the end of 3.0",
        "the end of 2.0",
    ]


@pytest.mark.parametrize(
    ("arguments", "complaint"), [([], "required: version"), (["newest"], "`newest` is not a version")]
)
def test_command_without_a_version_is_wrong_usage(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    assert complaint in shown
    assert "usage: make engine-check VERSION=0.5.24" in shown


def test_check_says_what_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = report()
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    monkeypatch.setattr(command, "derive_lists", lambda *_: (made.derivation, "torch==1\n", ""))
    monkeypatch.setattr(command, "prepare", lambda *_: Environment(Path(sys.executable), 90, 1))
    monkeypatch.setattr(command, "check_hooks", lambda *_: made.hooks)
    monkeypatch.setattr(command, "check_tests", lambda *_: made.tests)
    written = io.StringIO()
    command.check(tmp_path, "2.0", Console(file=written, width=200))
    lines = written.getvalue().splitlines()
    assert [line.partition(": ")[2].partition(":")[0] for line in lines] == [
        "hooks",
        "tests",
        "wrote build/engine-check/2.0",
    ]
