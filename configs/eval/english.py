"""Reads and scores the questions of the English tasks for the lm-eval benchmarks beside this file."""

import json
from pathlib import Path
from typing import Any

import datasets

from sun_sglang.bench.smollm2.english.scorers import SCORERS


def load(file: str, **_: object) -> dict[str, datasets.Dataset]:
    """The test split from a JSONL file; a relative path is relative to this file.

    lm-eval calls this with the benchmark's `dataset_kwargs` and `metadata`. A row stays one text, because the possible
    arguments of calls have types that no column can hold.
    """
    lines = (Path(__file__).parent / file).read_text(encoding="utf-8").splitlines()
    rows = [
        {"question": row["messages"][-1]["content"], "answer": row["answer"], "row": line}
        for line in lines
        for row in [json.loads(line)]
    ]
    return {"test": datasets.Dataset.from_list(rows)}


def call(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Score a function call by BFCL's rule."""
    return _score("call", doc, results)


def extract(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Score extracted JSON."""
    return _score("extract", doc, results)


def intent(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Score a label."""
    return _score("intent", doc, results)


def language(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Score the name of a language."""
    return _score("language", doc, results)


def topic(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Score a topic."""
    return _score("topic", doc, results)


def shell(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Score a line of shell."""
    return _score("shell", doc, results)


def _score(task: str, doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    return {"right": float(SCORERS[task](results[0], json.loads(doc["row"])))}
