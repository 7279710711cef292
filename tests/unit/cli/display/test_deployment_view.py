"""A deployment in a narrow terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from sun_sglang.cli.display.deployment_view import EarlyEnds, early_end, render
from sun_sglang.contracts.tasks_report import TasksReport
from sun_sglang.launch.state import DeploymentState, Phase, ProcessState


def process(name: str, phase: Phase, detail: str = "", log_end: str = "", restarts: int = 0) -> ProcessState:
    return ProcessState(
        name=name,
        pool="math",
        role="prefill",
        phase=phase,
        pid=0,
        url="http://127.0.0.1:30001",
        log=Path("log"),
        restarts=restarts,
        detail=detail,
        log_end=log_end,
    )


def test_view_in_a_narrow_terminal_shows_a_long_reason_in_whole_lines() -> None:
    why = "patch `x` did not take: sglang.srt.managers.scheduler.Scheduler.get_init_info runs without it [here]"
    state = deployment(process("math-0", Phase.FAILED, why), process("tool-0", Phase.RUNNING))
    console = Console(width=80)
    with console.capture() as shown:
        console.print(render(state, None))
    below = shown.get().rpartition("┘")[2]
    assert " ".join(below.split()) == f"math-0 failed: {why}"
    assert len(below.strip().splitlines()) == 2


def test_early_end_is_told_once_with_the_end_of_its_log() -> None:
    ends = EarlyEnds()
    first = deployment(process("math-0", Phase.RESTARTING, "exit 1", "[red] OOM", 1), process("tool-0", Phase.RUNNING))
    told = "math-0 ended before it was ready (exit 1, start 1). The end of log:\n[red] OOM"
    assert ends.news(first) == [told]
    assert ends.news(deployment(process("math-0", Phase.RUNNING, "exit 1", "[red] OOM", 1))) == []
    assert len(ends.news(deployment(process("math-0", Phase.RESTARTING, "exit 1", "[red] OOM", 2)))) == 1
    assert early_end(process("math-0", Phase.RUNNING)) == ""


def test_view_of_modules_names_tasks_and_the_pools_own_model() -> None:
    own, other = "0" * 16, "a" * 16
    modules = {"loaded": other, "own": own, "held": [own, other], "queued": {own: 2}, "host_bytes": 2_500_000}

    def task(module: str | None) -> dict[str, Any]:
        workers = [worker("turns-0", modules | {"changes": 3, "change_seconds": 0.05})]
        return {
            "ready": True,
            "prefill": {"pool": "turns", "model": "m", "workers": workers},
            "decode": {"pool": "base", "model": "m", "workers": [worker("base-0", None)]},
            "paths": [],
            "unproven_paths": [],
            "queued": 0,
            "in_flight": 0,
            "namespace": None,
            "module": module and {"revision": module, "directory": "/m", "size": 5},
            "unproven_modules": [
                {"worker": "turns-0", "module": other, "why": "it is broken", "times": 1, "refused": False}
            ],
        }

    report = TasksReport.model_validate(
        {"ready": True, "draining": False, "tasks": {"math": task(None), "code": task(other)}}
    )
    console = Console(width=140)
    with console.capture() as shown:
        console.print(render(deployment(process("turns-0", Phase.RUNNING)), report))
    lines = [" ".join(line.replace("│", " ").split()) for line in shown.get().splitlines()]
    assert "turns-0 code 2, 2 MB 2 3 0.050 s" in lines
    assert f"code turns base {other} 0 of 1 0" in lines
    assert f"turns-0 without {other}: it is broken" in lines


def worker(name: str, modules: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "name": name,
        "url": "http://127.0.0.1:1",
        "state": "ready",
        "reason": "",
        "incarnation": "x",
        "in_flight": 0,
        "modules": modules,
    }


def deployment(*processes: ProcessState) -> DeploymentState:
    return DeploymentState(
        topology=Path("sun.yaml"),
        pid=1,
        created=1,
        phase=Phase.READY,
        url="http://127.0.0.1:8000",
        transfer="mooncake",
        seconds_to_ready=9.6,
        detail="",
        processes=processes,
    )
