"""A deployment in a narrow terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from sun_sglang.launch.state import DeploymentState, Phase, ProcessState
from sun_sglang.launch.view import render


def process(name: str, phase: Phase, detail: str = "") -> ProcessState:
    return ProcessState(
        name=name,
        pool="math",
        role="prefill",
        phase=phase,
        pid=0,
        url="http://127.0.0.1:30001",
        log=Path("log"),
        restarts=0,
        detail=detail,
    )


def test_view_in_a_narrow_terminal_shows_a_long_reason_in_whole_lines() -> None:
    why = "patch `x` did not take: sglang.srt.managers.scheduler.Scheduler.get_init_info runs without it [here]"
    state = DeploymentState(
        topology=Path("sun.yaml"),
        pid=1,
        created=1,
        phase=Phase.READY,
        url="http://127.0.0.1:8000",
        transfer="mooncake",
        seconds_to_ready=9.6,
        detail="",
        processes=(process("math-0", Phase.FAILED, why), process("tool-0", Phase.RUNNING)),
    )
    console = Console(width=80)
    with console.capture() as shown:
        console.print(render(state, None))
    below = shown.get().rpartition("┘")[2]
    assert " ".join(below.split()) == f"math-0 failed: {why}"
    assert len(below.strip().splitlines()) == 2
