"""Plans from settings: the same seed gives the same bytes, and one setting moves nothing else."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sun_sglang.bench.load.errors import BenchError
from sun_sglang.bench.load.workload.build import build
from sun_sglang.bench.load.workload.endless import EndlessPlan
from sun_sglang.bench.load.workload.planned import Plan
from sun_sglang.bench.load.workload.popularity import zipf_probabilities
from sun_sglang.bench.load.workload.settings import WorkloadSettings, workload_settings
from tests.support.chi_square import assert_counts_match

TASKS = ("math", "code", "tools", "chat")
TRACES = Path(__file__).parents[1] / "traces" / "data"
OPEN: dict[str, Any] = {"tasks": TASKS, "request_rate": 10.0, "zipf": 1.5, "isl": "uniform:5:50", "osl": "uniform:1:9"}


def plan(**changed: Any) -> Plan:
    built = build(workload_settings(**{**OPEN, **changed}))
    assert isinstance(built, Plan)
    return built


def columns(plan: Plan) -> dict[str, list[float]]:
    rows = [plan.row(i) for i in range(len(plan))]
    return {name: [getattr(row, name) for row in rows] for name in rows[0]._fields}


def test_plan_of_an_open_loop_ends_with_the_window() -> None:
    made = plan()
    due = [request.due for request in made]
    assert due == sorted(due)
    assert 0 < len(made) == len(due)
    assert made.due(len(made) - 1) < 90
    assert len(made) == pytest.approx(900, abs=150)
    assert sum(made.mix().values()) == len(made)


def test_plan_with_a_request_count_has_as_many() -> None:
    assert len(plan(request_count=7)) == 7


def test_plan_mix_of_a_long_run_is_zipf() -> None:
    mix = plan(request_rate=200.0).mix()
    assert tuple(mix) == TASKS
    assert_counts_match(list(mix.values()), zipf_probabilities(4, 1.5))


def test_plan_with_a_hot_shift_moves_the_head_at_the_moment() -> None:
    made = plan(request_rate=20.0, zipf=3.0, hot_shift=30.0)
    for third, hot in enumerate(TASKS[:3]):
        rows = [made.row(i) for i in range(len(made)) if 30 * third <= made.due(i) < 30 * (third + 1)]
        tasks = Counter(TASKS[row.task] for row in rows)
        assert tasks.most_common(1)[0][0] == hot


@pytest.mark.parametrize(
    ("changed", "moved"),
    [
        ({"isl": "7"}, {"input_tokens"}),
        ({"osl": "lognormal:9:1"}, {"output_tokens"}),
        ({"zipf": 0.0}, {"task"}),
        ({"hot_shift": 5.0}, {"task"}),
        ({"arrival_pattern": "gamma", "arrival_smoothness": 0.5}, {"due"}),
        ({"request_rate": 20.0}, {"due"}),
        ({"request_rate_ramp_duration": 10.0}, {"due"}),
        ({"token_ids": "5:9"}, set()),
        ({"prompt_seed": 7}, set()),
        ({"concurrency": 5}, set()),
        ({"random_seed": 1}, {"due", "task", "input_tokens", "output_tokens"}),
    ],
)
def test_plan_with_one_change_keeps_everything_else(changed: dict[str, Any], moved: set[str]) -> None:
    before, after = columns(plan(request_count=200)), columns(plan(request_count=200, **changed))
    assert {name for name in before if before[name] != after[name]} == moved


def test_plan_with_another_prompt_seed_has_other_prompts() -> None:
    first, second = plan(), plan(prompt_seed=7)
    assert first[0].prompt != second[0].prompt
    assert len(first[0].prompt) == len(second[0].prompt)  # type: ignore[arg-type] # token ids
    assert first.sha256() != second.sha256()


def test_closed_loop_requests_are_those_of_the_open_loop_without_times() -> None:
    closed = build(workload_settings(**{**OPEN, "request_rate": None, "concurrency": 8}))
    assert isinstance(closed, EndlessPlan)
    assert closed.count is None
    for request in list(plan(request_count=20))[::-1]:
        same = closed.request(request.index, elapsed=0.0)
        assert same.due is None
        assert (same.task, same.prompt, same.output_tokens) == (request.task, request.prompt, request.output_tokens)


def test_closed_loop_task_shifts_with_the_moment_of_sending() -> None:
    closed = build(workload_settings(tasks=TASKS, concurrency=1, zipf=50.0, hot_shift=10.0, request_count=3))
    assert isinstance(closed, EndlessPlan)
    assert [closed.request(0, elapsed).task for elapsed in (0, 10, 25, 45)] == ["math", "code", "tools", "math"]
    assert closed.request(2, 0).index == 2
    with pytest.raises(IndexError):
        closed.request(3, 0)


@pytest.mark.parametrize("changed", [{"zipf": 1.4}, {"osl": "8"}, {"random_seed": 1}, {"hot_shift": 3.0}, {"isl": "8"}])
def test_closed_loop_digest_differs_with_any_setting_of_the_content(changed: dict[str, Any]) -> None:
    settings = {**OPEN, "request_rate": None, "concurrency": 8}
    first, other = (build(workload_settings(**{**settings, **c})).sha256() for c in ({}, changed))
    assert first != other
    assert first == build(workload_settings(**{**settings, "concurrency": 9})).sha256()


def test_plan_of_a_large_run_holds_no_prompts() -> None:
    tracemalloc.start()
    try:
        made = plan(request_rate=2000.0, request_count=10_000, isl="4000")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(made) == 10_000
    assert len(made[9_999].prompt) == 4000  # type: ignore[arg-type] # token ids
    # the 40 million ids are 320 MB as pointers alone
    assert peak < 4_000_000


_PRINT_DIGESTS = """
import hashlib, sys
from sun_sglang.bench.load.workload.build import build
from sun_sglang.bench.load.workload.settings import WorkloadSettings, workload_settings
tasks = ("math", "code", "tools", "chat")
loads = [
    {"request_rate": 10.0, "zipf": 1.5, "isl": "lognormal:50:1:500", "osl": "uniform:1:9", "hot_shift": 7.0},
    {"request_rate": 5.0, "arrival_pattern": "gamma", "arrival_smoothness": 0.3, "request_rate_ramp_duration": 9.0},
    {"input_file": [sys.argv[1] + "/azure_small.csv"], "zipf": 1.0},
    {"input_file": [sys.argv[1] + "/mooncake_small.jsonl"]},
]
for load in loads:
    plan = build(workload_settings(tasks=tasks, **load))
    print(plan.sha256(), hashlib.sha256(b"".join(plan.lines())).hexdigest())
for load in ({"concurrency": 3}, {"concurrency": 3, "workload": "react"}):
    print(build(workload_settings(tasks=(*tasks, "more"), zipf=1.0, **load)).sha256())
sessions = build(workload_settings(tasks=(*tasks, "more"), zipf=1.0, workload="reflexion", request_rate=1.0))
print(hashlib.sha256(repr([session.request(9) for session in sessions]).encode()).hexdigest())
"""


def _digests(hash_seed: str) -> str:
    command = [sys.executable, "-c", _PRINT_DIGESTS, str(TRACES)]
    env = {**os.environ, "PYTHONHASHSEED": hash_seed}
    return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout


def test_plans_of_two_processes_are_equal_to_the_byte() -> None:
    first = _digests("1")
    assert len(first.splitlines()) == 7
    assert first == _digests("2")


def test_plan_of_a_seed_stays_as_it_was_in_earlier_releases() -> None:
    """A result names its seed: another release must send the same requests for it."""
    lines = b"".join(plan(request_count=20, hot_shift=1.0).lines())
    assert hashlib.sha256(lines).hexdigest() == "e7af605ae271f6b9702fb7cf179dd17324045c7f2dcfd0e63198ef1543044e5a"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"request_rate": 0}, "--request-rate: Input should be greater than 0 (got 0)"),
        ({"request_rate": "x"}, "--request-rate: Input should be a valid number"),
        ({"request_rate": 1e9}, "--request-rate: 1e+09 per second make more than 5000000 requests in 90 s"),
        ({"request_rate": 1e-9}, "--request-rate: at 1e-09 per second no request is due within 90 s"),
        ({"request_rate": None}, "no load: give --request-rate (open loop) or --concurrency (closed loop)"),
        ({"concurrency": 0}, "--concurrency: Input should be greater than 0"),
        ({"zipf": -1}, "--zipf: Input should be greater than or equal to 0 (got -1)"),
        ({"zipf": float("nan")}, "--zipf: Input should be a finite number"),
        ({"hot_shift": 0}, "--hot-shift: Input should be greater than or equal to 0.001"),
        ({"isl": "9-5"}, "--isl: `9-5` is no length"),
        ({"osl": "0"}, "--osl: `0` is no length"),
        ({"token_ids": "9"}, "--token-ids: `9` is no range of token ids"),
        ({"tasks": ()}, "--tasks: "),
        ({"tasks": ("a", "a")}, "--tasks: task `a` is named twice"),
        ({"tasks": ("a", "")}, "--tasks: a task has no name"),
        ({"unknown_flag": 1}, "--unknown-flag: unknown key"),
        ({"arrival_pattern": "normal"}, "--arrival-pattern: Input should be 'poisson', 'constant' or 'gamma'"),
        ({"arrival_smoothness": 2}, "--arrival-smoothness: needs --arrival-pattern gamma"),
        (
            {"request_rate": None, "concurrency": 1, "arrival_pattern": "constant"},
            "--arrival-pattern: needs --request-rate",
        ),
        (
            {"request_rate": None, "concurrency": 1, "request_rate_ramp_duration": 1},
            "--request-rate-ramp-duration: needs --request-rate",
        ),
        ({"concurrency_ramp_duration": 1}, "--concurrency-ramp-duration: needs --concurrency"),
        ({"custom_dataset_type": "sharegpt"}, "--custom-dataset-type: needs --input-file"),
        ({"synthesis_speedup_ratio": 2}, "--synthesis-speedup-ratio: needs a trace; name one with --input-file"),
        ({"fixed_schedule_end_offset": 2}, "--fixed-schedule-end-offset: needs a trace"),
        ({"agent_turns": 2}, "--agent-turns: needs --workload react or --workload reflexion"),
        ({"workload": "react"}, "--isl: a trace and --workload have lengths of their own"),
        ({"workload": "react", "request_rate": None}, "no load"),
        ({"input_file": ["{data}/azure_small.csv"]}, "--isl: a trace and --workload have lengths of their own"),
        (
            {"input_file": ["{data}/azure_small.csv"], "isl": "512", "osl": "128"},
            "--request-rate: a trace has times of its own",
        ),
        ({"input_file": ["{texts}"]}, "--isl: the prompts of --input-file are sent whole"),
        ({"input_file": ["math={texts}"], "isl": "512"}, "--input-file: task `code` has no file; give `code=FILE`"),
        ({"input_file": ["math={texts}", "{data}/azure_small.csv"]}, "--input-file: traces and datasets do not go"),
        ({"input_file": ["{texts}"], "workload": "react"}, "--input-file: agents send random token ids"),
    ],
)
def test_wrong_settings_give_one_error_with_the_flag(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"prompt": "a"}')
    files = [value.format(data=TRACES, texts=texts) for value in settings.get("input_file", ())]
    with pytest.raises(BenchError) as error:
        build(workload_settings(**{**OPEN, **settings, "input_file": files}))
    assert str(error.value).startswith(message)


def test_plan_of_a_dataset_sends_its_texts_whole(tmp_path: Path) -> None:
    shared, own = tmp_path / "shared.jsonl", tmp_path / "own.jsonl"
    shared.write_text('{"prompt": "one"}\n{"prompt": "two"}')
    own.write_text('{"question": "2+2?"}')
    made = plan(input_file=[str(shared), f"math={own}"], isl="512", request_count=50)
    prompts = {task: {request.prompt for request in made if request.task == task} for task in TASKS}
    assert prompts["math"] == {"2+2?"}
    assert made.row(0).input_tokens == 0, "the length of a text is not known"
    assert prompts["code"] == {"one", "two"}
    assert [file["task"] for file in made.origin["files"]] == [None, "math"]
    assert made.origin["files"][1]["sha256"] == hashlib.sha256(own.read_bytes()).hexdigest()
    assert made.sha256() != plan(request_count=50).sha256()


def test_settings_of_every_field_have_a_sentence() -> None:
    text = WorkloadSettings.__doc__ or ""
    assert [name for name in WorkloadSettings.model_fields if f"        {name}: " not in text] == []
