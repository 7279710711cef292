"""Reads questions for the lm-eval benchmarks beside this file, wherever lm-eval is called from."""

import json
from pathlib import Path

import datasets


def load(file: str, **_: object) -> dict[str, datasets.Dataset]:
    """The test split from a JSONL file; a relative path is relative to this file.

    lm-eval calls this with the benchmark's `dataset_kwargs` and `metadata`.
    """
    lines = (Path(__file__).parent / file).read_text(encoding="utf-8").splitlines()
    return {"test": datasets.Dataset.from_list([json.loads(line) for line in lines])}
