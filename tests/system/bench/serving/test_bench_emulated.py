"""`sun bench` as a user runs it, on emulated workers whose costs are known."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from sun_sglang.bench.processes import run_sun, sun_command
from sun_sglang.bench.serving.report.study.quantities import number_text
from sun_sglang.bench.serving.result import BenchResult, read_result, result_schema
from sun_sglang.bench.serving.run_report import RunReport
from sun_sglang.launch.state import Phase, read_state
from tests.support.waiting import wait_for

TASKS = ("math", "code")
DECODE_STEP, PREFILL = 0.02, 0.01
TOPOLOGY: dict[str, Any] = {
    "pools": {"base": {"role": "decode", "model": "none/base"}}
    | {name: {"role": "prefill", "model": f"none/{name}"} for name in TASKS},
    "tasks": {name: {"prefill": name, "decode": "base"} for name in TASKS},
    "backend": "emulated",
    "emulated": {"costs": "costs.yaml", "vocab_size": 1000},
    "router": {"port": 0, "probe_interval": 0.2},
}
# lateness is a matter of the machine, which runs other tests now
LOAD = ("--isl", "16", "--osl", "uniform:4:8", "--max-client-lag", "1e9", "--warmup-duration", "0")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("bench")
    (home / "costs.yaml").write_text(f"{{decode_step: {DECODE_STEP}, prefill: {PREFILL}, kv_tokens: 100000}}")
    (home / "sun.yaml").write_text(yaml.safe_dump(TOPOLOGY, sort_keys=False))
    run = home / "run"
    done = run_sun("launch", str(home / "sun.yaml"), "--detach", "--run-dir", str(run), timeout=120)
    assert done.returncode == 0, done.stderr
    yield run
    assert run_sun("stop", "--run-dir", str(run), "--now", timeout=120).returncode == 0


def router_url(run_dir: Path) -> str:
    found = read_state(run_dir)
    assert found is not None
    return found.url


def counted(run_dir: Path, metric: str, *labels: str) -> float:
    """Return the sum of a metric of the router over all label values that contain these labels."""
    with urllib.request.urlopen(f"{router_url(run_dir)}/metrics") as page:
        text = page.read().decode()
    rows = re.findall(rf"^{metric}\{{(.*)\}} (.*)$", text, re.MULTILINE)
    return sum(float(value) for given, value in rows if all(label in given for label in labels))


def only_run(found: BenchResult) -> RunReport:
    (run,) = found.runs
    return run


def bench(run_dir: Path, file: Path, *arguments: str, load: tuple[str, ...] = LOAD) -> BenchResult:
    done = run_sun("bench", *arguments, *load, "--output", str(file), timeout=120)
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr
    jsonschema.validate(json.loads(file.read_bytes()), result_schema())
    return read_result(file)


def test_bench_counts_are_those_of_the_router_and_times_are_those_of_the_workers(run_dir: Path, tmp_path: Path) -> None:
    before = [counted(run_dir, "sun_requests_total"), counted(run_dir, "sun_tokens_total", 'kind="completion"')]
    page = tmp_path / "page.html"
    arguments = ("--run-dir", str(run_dir), "--zipf", "1.5", "--concurrency", "4", "--request-count", "30")
    arguments = (*arguments, "--report", str(page))
    found = bench(run_dir, tmp_path / "result.json", *arguments)
    run = only_run(found)
    assert f" serves {number_text(run.total.output_token_throughput)} tokens/s" in page.read_text()
    total = run.total
    assert run.counts.model_dump() == {"preflight": 2, "sent": 30, "succeeded": 30, "failed": 0, "cut_off": 0}
    assert total.output_sequence_length is not None
    made = total.output_sequence_length.avg * 30
    assert counted(run_dir, "sun_requests_total") - before[0] == 32
    assert counted(run_dir, "sun_tokens_total", 'kind="completion"') - before[1] == pytest.approx(made + 2 * 2)
    assert (total.output_sequence_length.min, total.output_sequence_length.max) == (4, 8)
    assert total.input_sequence_length is not None
    assert total.input_sequence_length.min == total.input_sequence_length.max == 16
    # a busy machine makes a worker slower, never faster
    assert total.time_to_first_token is not None
    assert total.time_to_first_token.min >= 1000 * PREFILL
    assert total.inter_token_latency is not None
    assert total.inter_token_latency.p50 >= 0.95 * 1000 * DECODE_STEP
    assert total.output_token_throughput == pytest.approx(made / run.window.seconds)
    assert total.output_token_throughput_per_decode_worker == total.output_token_throughput
    assert (found.systems[0].workers, found.systems[0].decode_workers) == (3, 1)
    assert list(run.tasks) == list(TASKS)
    assert run.tasks["math"].sent > run.tasks["code"].sent
    assert sum(task.sent for task in run.tasks.values()) == 30


def test_bench_at_a_url_sends_a_rate_to_the_named_task(run_dir: Path, tmp_path: Path) -> None:
    rate = ("--request-rate", "100", "--request-count", "20", "--benchmark-duration", "100")
    found = bench(run_dir, tmp_path / "result.json", "--url", router_url(run_dir), "-m", "code", *rate)
    run = only_run(found)
    assert run.counts.succeeded == 20
    assert list(run.tasks) == ["code"]
    assert (found.systems[0].kind, found.systems[0].workers) == ("url", 2)
    total = run.total
    assert total.time_to_first_token is not None
    assert total.scheduled_time_to_first_token is not None
    assert total.scheduled_time_to_first_token.avg >= total.time_to_first_token.avg


def test_bench_grid_with_repetitions_flushes_between_runs_and_continues_its_file(run_dir: Path, tmp_path: Path) -> None:
    file, before = tmp_path / "grid.json", counted(run_dir, "sun_requests_total")
    arguments = ("--run-dir", str(run_dir), "--zipf", "0,1.5", "--num-profile-runs", "2", "--request-count", "4")
    found = bench(run_dir, file, *arguments, "--concurrency", "4")
    assert [dict(point.values) for point in found.points] == [{"zipf": 0}, {"zipf": 1.5}]
    assert [(run.caches, run.counts.succeeded, run.total.cached_token_count) for run in found.runs] == [
        ("flushed", 4, 0)
    ] * 4
    assert found.points[0].systems["sun.yaml"].summary["output_token_throughput"].repetitions == 2
    sent = counted(run_dir, "sun_requests_total") - before
    assert sent == 4 * (4 + len(TASKS))
    assert bench(run_dir, file, *arguments, "--concurrency", "4") == found
    assert counted(run_dir, "sun_requests_total") - before == sent


def test_bench_sessions_continue_what_the_workers_answered(run_dir: Path, tmp_path: Path) -> None:
    """Each task has a prefill pool of its own: a call finds the context of the last call of its own task."""
    lengths = ("--agent-turns", "2", "--agent-initial-tokens", "40", "--agent-appended-tokens", "6")
    found = bench(
        run_dir,
        tmp_path / "result.json",
        *("--run-dir", str(run_dir), "--workload", "react", "--concurrency", "2", "--request-count", "3"),
        *(*lengths, "--agent-output-tokens", "4"),
        load=("--max-client-lag", "1e9", "--warmup-duration", "0"),
    )
    run = only_run(found)
    assert run.counts.succeeded == 24
    sessions = run.sessions
    assert sessions is not None
    assert (sessions.session_count, sessions.started_session_count, sessions.stand_in_count) == (3, 3, 0)
    assert sessions.session_latency is not None
    # 8 calls of 4 tokens; a busy machine makes a worker slower, never faster
    assert sessions.session_latency.min >= 8 * 1000 * (PREFILL + 3 * DECODE_STEP) * 0.95
    first, second = sessions.turns
    # agents 3 and 4 are tasks 1 and 2 again. Prompts of other sessions and tests may begin with an equal token
    assert first.cached_token_count == pytest.approx(3 * (40 + 50), abs=9)
    assert second.cached_token_count == pytest.approx(3 * (60 + 70 + 80 + 90), abs=9)


def test_bench_compare_starts_each_system_in_turn_and_leaves_none(tmp_path: Path) -> None:
    (tmp_path / "costs.yaml").write_text(f"{{decode_step: {DECODE_STEP}, prefill: {PREFILL}, kv_tokens: 100000}}")
    own = {f"{name}-decode": {"role": "decode", "model": f"none/{name}"} for name in TASKS}
    isolated = {
        **TOPOLOGY,
        "pools": own | {name: TOPOLOGY["pools"][name] for name in TASKS},
        "tasks": {name: {"prefill": name, "decode": f"{name}-decode"} for name in TASKS},
    }
    files = [tmp_path / "sun.yaml", tmp_path / "isolated.yaml"]
    for file, topology in zip(files, (TOPOLOGY, isolated), strict=True):
        file.write_text(yaml.safe_dump(topology, sort_keys=False))
    core = min(os.sched_getaffinity(0))
    options = (
        "--concurrency",
        "2",
        "--request-count",
        "6",
        "--cores",
        f"decode:{core}",
        "--run-dir",
        str(tmp_path / "run"),
    )
    found = bench(tmp_path, tmp_path / "result.json", "--compare", *map(str, files), *options)
    assert [(s.name, s.kind, s.workers, s.decode_workers) for s in found.systems] == [
        ("sun", "topology", 3, 1),
        ("isolated", "topology", 4, 2),
    ]
    assert found.systems[1].definition == isolated
    assert [(run.caches, run.counts.succeeded) for run in found.runs] == [("fresh", 6)] * 2
    assert found.points[0].ratios["isolated"]["output_token_throughput"].repetitions == 1
    for name in ("sun", "isolated"):
        state = read_state(tmp_path / "run" / name)
        assert state is not None
        assert (state.phase, state.alive) == (Phase.STOPPED, False)


def test_bench_that_is_interrupted_writes_what_its_window_measured(run_dir: Path, tmp_path: Path) -> None:
    file, before = tmp_path / "result.json", counted(run_dir, "sun_requests_total")
    command = sun_command("bench", "--run-dir", str(run_dir), *LOAD, "--output", str(file))
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        try:
            wait_for(lambda: counted(run_dir, "sun_requests_total") >= before + 20)
            running.send_signal(signal.SIGINT)
            _, errors = running.communicate(timeout=60)
        finally:
            running.kill()
    assert running.returncode == 130
    assert "Traceback" not in errors
    run = only_run(read_result(file))
    assert (run.ending, run.valid) == ("cut_short", True)
    assert run.total.request_count == run.counts.succeeded >= 10
    assert run.counts.sent == run.counts.succeeded + run.counts.cut_off
    assert run.window.end < 60
