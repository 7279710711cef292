"""What became of the rows of a data set: the examples left out and why, the longest, and what training ignores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sun_sglang.train.data.examples import TokenizedExample

_SHOWN = 3


@dataclass(frozen=True)
class Finding:
    """Something that holds for a number of examples.

    Attributes:
        text: what it is.
        count: number of examples; 0 for something about the whole data set.
        first: place of the first one.
    """

    text: str
    count: int = 0
    first: str = ""

    def describe(self) -> str:
        """Return the finding as one line."""
        return f"{self.text} ({self.count:,}; first: {self.first})" if self.count else self.text


@dataclass(frozen=True)
class DataReport:
    """What became of the rows.

    Attributes:
        format: name of the rows' format.
        left_out: reasons why examples are left out.
        notes: what the user may not expect.
        longest: tokens of the longest example, also where it is left out.
        longest_at: its place.
        first: the first examples, in the order of the rows.
    """

    format: str = ""
    left_out: tuple[Finding, ...] = ()
    notes: tuple[Finding, ...] = ()
    longest: int = 0
    longest_at: str = ""
    first: tuple[TokenizedExample, ...] = ()

    @property
    def left_out_count(self) -> int:
        """Number of examples that are left out."""
        return sum(finding.count for finding in self.left_out)

    def lines(self, used: int) -> list[str]:
        """Return the lines to print before a training.

        Args:
            used: number of examples that are trained or validated on.
        """
        total = used + self.left_out_count
        return [
            *(f"left out: {f.count:,} of {total:,} examples: {f.text}; first: {f.first}" for f in self.left_out),
            *(f"note: {f.describe()}" for f in self.notes),
        ]


class ReportBuilder:
    """Counts findings while rows are read."""

    def __init__(self) -> None:
        self.format = ""
        self._left_out: dict[str, tuple[int, str]] = {}
        self._notes: dict[str, tuple[int, str]] = {}
        self._longest = (0, "")
        self._first: list[TokenizedExample] = []

    def leave_out(self, reason: str, where: str) -> None:
        """Count an example that is left out."""
        _count(self._left_out, reason, where)

    def note(self, texts: Iterable[str], where: str) -> None:
        """Count something about an example; without a place it holds for the whole data set."""
        for text in texts:
            _count(self._notes, text, where)

    def keep(self, example: TokenizedExample) -> None:
        """Remember the first examples that are not left out."""
        if len(self._first) < _SHOWN:
            self._first.append(example)

    def measure(self, tokens: int, where: str) -> None:
        """Remember the longest example."""
        if tokens > self._longest[0]:
            self._longest = (tokens, where)

    def build(self) -> DataReport:
        """Return the report."""
        left_out, notes = _findings(self._left_out), _findings(self._notes)
        return DataReport(self.format, left_out, notes, *self._longest, tuple(self._first))


def _count(found: dict[str, tuple[int, str]], text: str, where: str) -> None:
    count, first = found.get(text, (0, where))
    found[text] = (count + 1, first)


def _findings(found: dict[str, tuple[int, str]]) -> tuple[Finding, ...]:
    return tuple(Finding(text, count if first else 0, first) for text, (count, first) in found.items())
