"""The systems that are compared, and the order in which their cells are measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

# bits of the weights in prefill and decode, by the task of `configs/four_bit/systems.yaml`
BITS: Mapping[str, str] = {"float32": "32 / 32", "bfloat16": "16 / 16", "four-bit": "4 / 4", "qsun": "16 / 4"}
# the two candidates for full precision; the faster one is compared
FULL = ("bfloat16", "float32")
QSUN = "qsun"


class Cell(NamedTuple):
    """One measurement.

    Attributes:
        system: the system's task.
        concurrency: users of the closed loop.
        repetition: number of the round, from 0.
    """

    system: str
    concurrency: int
    repetition: int


def cells(concurrencies: Sequence[int], rounds: int, float32_rounds: int) -> Iterator[Cell]:
    """Yield every cell. The systems take turns at each concurrency, and another one is the first in each round.

    Args:
        concurrencies: numbers of users.
        rounds: repetitions of each cell.
        float32_rounds: repetitions of float32, which is slower on a processor that multiplies bfloat16.
    """
    for repetition in range(rounds):
        for concurrency in concurrencies:
            taking = [s for s in BITS if s != "float32" or repetition < float32_rounds]
            first = repetition % len(taking)
            yield from (Cell(system, concurrency, repetition) for system in taking[first:] + taking[:first])
