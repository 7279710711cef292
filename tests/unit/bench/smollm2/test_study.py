"""Scores of the English tasks, collected from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sun_sglang.bench.smollm2.english.study import collect, label_shares


def row(answer: str, expected: str) -> dict[str, Any]:
    return {"right": answer == expected, "answer": answer, "expected": expected}


def test_shares_of_answers_with_the_right_first_word_and_of_known_labels() -> None:
    rows = [
        row("card lost", "card lost"),
        row("card late", "card arrival"),
        row(" ", "atm"),
        row("atm", "card arrival"),
    ]
    assert label_shares(rows) == {"first_word": 50.0, "known_label": 50.0}


def test_collect_finds_each_way_of_a_task_and_compares_those_with_the_same_questions(tmp_path: Path) -> None:
    rows = {
        "sun": [row("a", "a"), row("b", "a"), row("b", "b")],
        "naive": [row("b", "a"), row("b", "a"), row("b", "b")],
        "rank/intent-4": [row("a", "a"), row("a", "a"), row("a", "b")],
    }
    for adapter in ("intent", "full/intent", "rank/intent-4"):
        for name, content in {
            "adapter/sun.json": {
                "scheme": "prefill_only",
                "learning_rate": 0.002,
                "seed": 0,
                "recipe": {"max_steps": 120, "global_batch": 8, "lora": {"rank": 4}},
            },
            "training/search.json": {"losses": {"0.002": 0.5}},
        }.items():
            file = tmp_path / "built" / adapter / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(content))
    for way, found in rows.items():
        file = tmp_path / "scores" / "intent" / f"{way}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        right = sum(r["right"] for r in found)
        numbers = {"correct": right, "total": 3, "percent": 100 * right / 3, "low": 0, "high": 100}
        file.write_text(json.dumps({"task": "intent", "way": way, **numbers, "rows": found}))
    runs = collect(tmp_path / "built", tmp_path / "scores")
    assert [run.case for run in runs] == [
        {"task": "intent", "way": "naive"},
        {"task": "intent", "way": "rank/intent-4"},
        {"task": "intent", "way": "sun"},
        {"task": "intent", "compared": "sun, naive"},
    ]
    assert runs[1].values["validation_loss"] == 0.5
    assert runs[1].details["examples"] == 960
    assert runs[1].values["first_word"] == 66.7
    assert runs[3].details == {"only_sun": 1, "only_naive": 0}
