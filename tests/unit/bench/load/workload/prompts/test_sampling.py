"""Which prompt of a dataset a request has."""

from __future__ import annotations

from sun_sglang.bench.load.workload.prompts.sampling import DatasetPrompts

TEXTS = [f"text {i}" for i in range(50)]


def test_dataset_prompts_come_once_each_before_one_comes_again() -> None:
    source = DatasetPrompts(1, {"math": TEXTS}, "x")
    drawn = [source.prompt(i, "math", 0) for i in range(100)]
    assert sorted(map(str, drawn[:50])) == sorted(TEXTS)
    assert drawn[:50] != TEXTS
    assert drawn[50:] == drawn[:50]


def test_dataset_prompts_of_tasks_that_share_a_file_have_different_orders() -> None:
    source = DatasetPrompts(1, {"math": TEXTS, "code": TEXTS}, "x")
    assert [source.prompt(i, "math", 0) for i in range(50)] != [source.prompt(i, "code", 0) for i in range(50)]
