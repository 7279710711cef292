"""`extract`: a spoken request to JSON, from the seven custom intents of the Snips NLU benchmark (CC0 1.0).

Source: github.com/sonos/nlu-benchmark, `2017-06-custom-intent-engines` (Coucke et al., arXiv 1805.10190). Training and
validation rows are of the files `train_*_full.json`, test rows of `validate_*.json`, the benchmark's own test set.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sun_sglang.bench.smollm2.english.rows import Row, Splits, sample

SYSTEM = "Extract the request as JSON: its intent and its slots, in the order of the text."
INTENTS = (
    "AddToPlaylist",
    "BookRestaurant",
    "GetWeather",
    "PlayMusic",
    "RateBook",
    "SearchCreativeWork",
    "SearchScreeningEvent",
)
_TRAIN, _VALIDATION, _TEST = 230, 10, 50  # of each intent


def splits(source: Path) -> Splits:
    """Return the rows of the benchmark's files.

    Args:
        source: a checkout of the repository.
    """
    train, validation, test = [], [], []
    for intent in INTENTS:
        folder = source / "2017-06-custom-intent-engines" / intent
        tested = _rows(folder / f"validate_{intent}.json", intent)
        questions = {row.question for row in tested}
        learned = [row for row in _rows(folder / f"train_{intent}_full.json", intent) if row.question not in questions]
        drawn = sample(learned, _TRAIN + _VALIDATION, f"extract/{intent}/train")
        train += drawn[:_TRAIN]
        validation += drawn[_TRAIN:]
        test += sample(tested, _TEST, f"extract/{intent}/test")
    return {"train": sample(train, len(train), "extract/train"), "validation": validation, "test": test}


def _rows(file: Path, intent: str) -> list[Row]:
    """Return the different requests of a file. One with two slots of a name is left out: JSON has one value a key."""
    # a few files have bytes that are no UTF-8
    requests = json.loads(file.read_text(encoding="utf-8", errors="replace"))[intent]
    rows: dict[str, Row] = {}
    for request in requests:
        row = _row(intent, request["data"])
        if row is not None:
            rows.setdefault(row.question, row)
    return list(rows.values())


def _row(intent: str, parts: list[dict[str, Any]]) -> Row | None:
    slots = [(part["entity"], part["text"].strip()) for part in parts if "entity" in part]
    question = "".join(part["text"] for part in parts).strip()
    if len(dict(slots)) < len(slots) or "\ufffd" in question or not question:
        return None
    answer = json.dumps({"intent": intent, **dict(slots)}, ensure_ascii=False)
    return Row(SYSTEM, question, answer)
