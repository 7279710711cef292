"""A task's questions and answers, and their files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TypeVar

from sun_sglang.train.data.examples import Split

SEED = 0
"""Seed of every draw from a source."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Row:
    """One example.

    Attributes:
        system: the task's system message.
        question: the user's message.
        answer: the answer to learn.
        accepted: further right answers, or what else the task's scorer needs; written beside the answer if not empty.
    """

    system: str
    question: str
    answer: str
    accepted: Mapping[str, object] | None = None

    def as_json(self) -> str:
        """Return the row as a line that `sun train` and `sun eval` read."""
        messages = [{"role": "system", "content": self.system}, {"role": "user", "content": self.question}]
        row = {"messages": messages, "answer": self.answer}
        if self.accepted is not None:
            row["accepted"] = dict(self.accepted)  # type: ignore[assignment] # a row of several types
        return json.dumps(row, ensure_ascii=False)


Splits = Mapping[Split, Sequence[Row]]


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows, one JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(row.as_json() + "\n" for row in rows), encoding="utf-8")


def sample(items: Sequence[_T], count: int, what: str) -> list[_T]:
    """Return `count` different items in random order; the same items for the same `what`.

    Args:
        items: the items.
        count: how many.
        what: name of the draw, such as `extract/train`.
    """
    # a seed of type str gives the same numbers in every process; a tuple does not
    return Random(f"{what}/{SEED}").sample(items, count)
