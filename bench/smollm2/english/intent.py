"""`intent`: a customer's message to one of 77 labels, from BANKING77 (CC BY 4.0).

Source: github.com/PolyAI-LDN/task-specific-datasets, `banking_data` (Casanueva et al., arXiv 2003.04807). Training and
validation rows are of its `train.csv`, test rows of its `test.csv`. A label's underscores become spaces, its capitals
small letters.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

from sun_sglang.bench.smollm2.english.rows import Row, Splits, sample

SYSTEM = "Name the intent of the bank customer's message."
_TRAIN, _VALIDATION, _TEST = 24, 1, 5  # of each label


def splits(source: Path) -> Splits:
    """Return the rows of the data set's files.

    Args:
        source: a checkout of the repository.
    """
    learned, tested = (_by_label(source / "banking_data" / f"{name}.csv") for name in ("train", "test"))
    train, validation, test = [], [], []
    for label in sorted(learned):
        questions = {row.question for row in tested[label]}
        rows = [row for row in learned[label] if row.question not in questions]
        drawn = sample(rows, _TRAIN + _VALIDATION, f"intent/{label}/train")
        train += drawn[:_TRAIN]
        validation += drawn[_TRAIN:]
        test += sample(tested[label], _TEST, f"intent/{label}/test")
    return {"train": sample(train, len(train), "intent/train"), "validation": validation, "test": test}


def _by_label(file: Path) -> dict[str, list[Row]]:
    found: dict[str, dict[str, Row]] = defaultdict(dict)
    with file.open(encoding="utf-8", newline="") as text:
        for row in csv.DictReader(text):
            question = " ".join(row["text"].split())
            found[row["category"]][question] = Row(SYSTEM, question, row["category"].replace("_", " ").lower())
    return {label: list(rows.values()) for label, rows in found.items()}
