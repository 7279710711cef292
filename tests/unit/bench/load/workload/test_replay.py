"""Replay of traces: times, slices, tasks, shared blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from sun_sglang.bench.load.errors import BenchError
from sun_sglang.bench.load.workload.build import build
from sun_sglang.bench.load.workload.planned import Plan
from sun_sglang.bench.load.workload.settings import workload_settings

TASKS = ("math", "code")
DATA = Path(__file__).parents[1] / "traces" / "data"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def replayed(*files: Path | str, **settings: Any) -> Plan:
    built = build(workload_settings(**{"tasks": TASKS, "input_file": [str(file) for file in files], **settings}))
    assert isinstance(built, Plan)
    return built


@pytest.fixture
def mooncake(tmp_path: Path) -> Path:
    """Write six requests, one a second, whose tasks the trace names for two."""
    file = tmp_path / "trace.jsonl"
    rows: list[dict[str, Any]] = [
        {"timestamp": 5000 + 1000 * i, "input_length": 10 + i, "output_length": 1 + i} for i in range(6)
    ]
    rows[1]["task"] = "code"
    rows[2]["model"] = "code"
    file.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    return file


def test_replay_begins_at_zero_and_keeps_times_and_lengths(mooncake: Path) -> None:
    plan = replayed(mooncake)
    assert [request.due for request in plan] == [0, 1, 2, 3, 4, 5]
    assert [len(request.prompt) for request in plan] == [10, 11, 12, 13, 14, 15]  # type: ignore[arg-type] # token ids
    assert [request.output_tokens for request in plan] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("settings", "due", "first"),
    [
        ({"synthesis_speedup_ratio": 2}, [0, 0.5, 1, 1.5, 2, 2.5], 10),
        ({"fixed_schedule_start_offset": 1500}, [0.5, 1.5, 2.5, 3.5], 12),
        ({"fixed_schedule_end_offset": 2000}, [0, 1, 2], 10),
        (
            {"fixed_schedule_start_offset": 1000, "fixed_schedule_end_offset": 2000, "synthesis_speedup_ratio": 0.5},
            [0, 2],
            11,
        ),
        ({"request_count": 2}, [0, 1], 10),
        ({"warmup_duration": 1, "benchmark_duration": 2}, [0, 1, 2], 10),
    ],
)
def test_replay_of_a_slice_begins_at_its_start(
    mooncake: Path, settings: dict[str, float], due: list[float], first: int
) -> None:
    plan = replayed(mooncake, **settings)
    assert [request.due for request in plan] == due
    assert plan.row(0).input_tokens == first


def test_replay_tasks_are_those_of_the_trace_and_else_drawn(mooncake: Path) -> None:
    hot = [request.task for request in replayed(mooncake, zipf=100)]
    assert hot == ["math", "code", "code", "math", "math", "math"]
    drawn = [[request.task for request in replayed(mooncake, random_seed=seed)] for seed in range(8)]
    assert all(tasks[1:3] == ["code", "code"] for tasks in drawn)
    assert len(set(map(tuple, drawn))) > 1


def test_replay_of_a_slice_draws_the_tasks_of_the_whole(mooncake: Path) -> None:
    whole = [request.task for request in replayed(mooncake, random_seed=3)]
    assert len(set(whole[3:])) == 2
    assert [r.task for r in replayed(mooncake, random_seed=3, fixed_schedule_start_offset=3000)] == whole[3:]


def test_replay_of_one_trace_for_each_task_merges_them(tmp_path: Path) -> None:
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    first.write_text(AZURE + "2026-01-01 00:00:00,5,1\n2026-01-01 00:00:02,6,1\n")
    second.write_text(AZURE + "2020-05-05 00:00:10,7,1\n2020-05-05 00:00:11,8,1\n")
    plan = replayed(f"code={first}", f"math={second}")
    assert [(r.due, r.task, len(r.prompt)) for r in plan] == [  # type: ignore[arg-type] # token ids
        (0, "code", 5),
        (0, "math", 7),
        (1, "math", 8),
        (2, "code", 6),
    ]
    assert [file["task"] for file in plan.origin["files"]] == ["code", "math"]


def test_replay_of_equal_hash_ids_shares_blocks_within_a_trace_alone(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    rows = [(6, [1, 2]), (8, [1, 2]), (5, [1, 3]), (4, [])]
    file.write_bytes(
        b"\n".join(
            orjson.dumps({"timestamp": 0, "input_length": length, "output_length": 1, "hash_ids": ids})
            for length, ids in rows
        )
    )
    twice = replayed(f"math={file}", f"code={file}", isl_block_size=4)
    own, other = ([r.prompt for r in twice if r.task == task] for task in ("math", "code"))
    first, longer, third, plain = own
    assert isinstance(first, tuple)
    assert longer[:6] == first  # type: ignore[index] # token ids
    assert third[:4] == first[:4]  # type: ignore[index] # token ids
    assert len(plain) == 4  # type: ignore[arg-type] # token ids
    assert other[0] != first


def test_replay_of_the_small_traces_names_file_and_digest() -> None:
    for name, kind in (("azure_small.csv", "azure_trace"), ("mooncake_small.jsonl", "mooncake_trace")):
        plan = replayed(DATA / name)
        assert len(plan) == 20
        [file] = plan.origin["files"]
        assert (file["file"], file["format"], file["records"], file["source"]) == (name, kind, 20, None)
        assert len(file["sha256"]) == 64


def test_replay_of_the_small_mooncake_trace_hits_a_prefix_cache() -> None:
    seen: set[tuple[int, ...]] = set()
    hits = 0
    for request in replayed(DATA / "mooncake_small.jsonl"):
        assert isinstance(request.prompt, tuple)
        prefixes = [request.prompt[:end] for end in range(512, len(request.prompt) + 1, 512)]
        hits += sum(prefix in seen for prefix in prefixes)
        seen.update(prefixes)
    rows = [orjson.loads(line) for line in (DATA / "mooncake_small.jsonl").read_bytes().splitlines()]
    named: set[int] = set()
    expected = 0
    for row in rows:
        full = row["hash_ids"][: row["input_length"] // 512]
        expected += sum(block in named for block in full)
        named.update(full)
    assert hits == expected > 20


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": ("math",)}, "{file}:2: unknown task `code`; tasks: math"),
        (
            {"fixed_schedule_start_offset": 9000},
            "--fixed-schedule-start-offset: no record is in the slice; the last is at 5000",
        ),
        (
            {"fixed_schedule_start_offset": 5, "fixed_schedule_end_offset": 4},
            "--fixed-schedule-end-offset: 4 ms is before the start, 5 ms",
        ),
        ({"synthesis_speedup_ratio": 0}, "--synthesis-speedup-ratio: Input should be greater than 0"),
        ({"osl": "7"}, "--osl: a trace and --workload have lengths of their own"),
        ({"custom_dataset_type": "azure_trace"}, "{file}:1: not valid CSV"),
    ],
)
def test_replay_that_is_wrong_names_the_line_or_the_flag(
    mooncake: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(BenchError) as error:
        replayed(mooncake, **settings)
    assert str(error.value).startswith(message.format(file=mooncake))
