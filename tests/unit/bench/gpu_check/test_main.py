"""The command: which stages run, where, and how it ends."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sun_sglang.bench.gpu_check import __main__ as command
from sun_sglang.bench.gpu_check.context import Context
from sun_sglang.bench.gpu_check.errors import CheckError
from sun_sglang.bench.gpu_check.stage import Stage
from sun_sglang.bench.provenance import Machine as MachineFacts
from sun_sglang.bench.report import Report
from sun_sglang.launch.planning.hardware.gpu_inventory import Gpu
from sun_sglang.launch.planning.hardware.machine import Machine

MACHINE = MachineFacts(cores=2)


class Check:
    """The command with made-up stages; each notes its context."""

    def __init__(self, report: Path) -> None:
        self.report = report
        self.seen: dict[str, Context] = {}
        self.reports: dict[str, Any] = {}

    def stage(self, name: str, error: Exception | None = None) -> Stage:
        def run(context: Context) -> dict[str, Any]:
            self.seen[name] = context
            self.reports[name] = self.read()
            if error:
                raise error
            return {"device": context.device}

        return Stage(name, f"title of {name}", run)

    def read(self) -> Any:
        return json.loads(self.report.read_text())

    def __call__(self, *arguments: str) -> int:
        return command.main([*arguments, "--output", str(self.report)])


def machine(*gpus: Gpu, problem: str = "") -> Callable[[], Machine]:
    return lambda: Machine(cores=2, memory=2**30, gpus=gpus, gpu_problem=problem)


def gpu(index: int, *, mig: bool = False) -> Gpu:
    return Gpu(index=index, uuid=f"GPU-{index}", name="a GPU", memory_mb=1, mig=mig)


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    check = Check(tmp_path / "build" / "report.json")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(command, "facts", lambda: MACHINE)
    monkeypatch.setattr(command, "detect_machine", machine(gpu(0), gpu(1)))
    monkeypatch.setattr(command, "STAGES", (check.stage("one"), check.stage("two")))
    return check


def test_all_stages_run_on_the_visible_gpus_without_options(check: Check) -> None:
    assert check() == 0
    assert list(check.seen) == ["one", "two"]
    assert (check.seen["one"].device, check.seen["one"].gpus) == ("cuda", (0, 1))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    assert [run["outcome"] for run in check.read()["runs"]] == ["passed", "passed"]


@pytest.mark.parametrize(("problem", "printed"), [("", "no GPU is visible;"), ("driver [hangs]", "(driver [hangs]);")])
def test_check_without_a_visible_gpu_fails_and_says_so(
    check: Check, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], problem: str, printed: str
) -> None:
    monkeypatch.setattr(command, "detect_machine", machine(problem=problem))
    assert check() == 1
    assert printed in capsys.readouterr().out
    assert not check.seen


def test_check_on_the_cpu_hides_gpus_and_asks_for_none(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "detect_machine", machine(problem="the driver hangs"))
    assert check("--device", "cpu") == 0
    assert (check.seen["two"].device, check.seen["two"].gpus) == ("cpu", ())
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_check_on_mig_devices_uses_one(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "detect_machine", machine(gpu(2, mig=True), gpu(3, mig=True)))
    assert check() == 0
    assert check.seen["one"].gpus == (2,)


def test_named_stages_alone_run_with_the_given_flags(check: Check) -> None:
    assert check("--stage", "two", "--flag", "attention_backend=triton", "--flag", "page_size=16") == 0
    assert list(check.seen) == ["two"]
    assert check.seen["two"].engine == {"attention_backend": "triton", "page_size": 16}


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (("--flag", "triton"), "`triton` is not a flag"),
        (("--flag", "=triton"), "`=triton` is not a flag"),
        (("--flag", "a=[1"), "`[1`, the value of `a`, is not YAML"),
        (("--stage", "three"), "three"),
        (("--device", "tpu"), "tpu"),
    ],
)
def test_wrong_usage_ends_with_2_and_names_the_argument(
    check: Check, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], printed: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        check(*arguments)
    assert ended.value.code == 2
    assert printed in capsys.readouterr().err
    assert not check.seen


def test_failed_stage_fails_the_check_and_later_stages_run(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = (check.stage("bad", CheckError("a token is wrong")), check.stage("good"))
    monkeypatch.setattr(command, "STAGES", stages)
    assert check() == 1
    assert [run["outcome"] for run in check.read()["runs"]] == ["failed", "passed"]


def test_report_is_written_before_the_first_stage_and_after_each(check: Check) -> None:
    check()
    finished = {name: [run["case"]["stage"] for run in report["runs"]] for name, report in check.reports.items()}
    assert finished == {"one": [], "two": ["one"]}
    assert not Report.model_validate(check.reports["one"]).passed


def test_table_is_printed_before_closing_fails(
    check: Check, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def cannot_close() -> None:
        raise CheckError("workers still run")

    def leaving(context: Context) -> dict[str, Any]:
        context.closing.callback(cannot_close)
        return {}

    monkeypatch.setattr(command, "STAGES", (Stage("one", "title of one", leaving),))
    with pytest.raises(CheckError, match="workers still run"):
        check()
    assert "proves" in capsys.readouterr().out


def test_interrupted_check_closes_what_the_stages_share(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []

    def interrupted(context: Context) -> dict[str, Any]:
        context.closing.callback(lambda: closed.append("core"))
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "STAGES", (check.stage("one"), Stage("two", "title", interrupted)))
    with pytest.raises(KeyboardInterrupt):
        check()
    assert closed == ["core"]
    assert [run["case"]["stage"] for run in check.read()["runs"]] == ["one"]
