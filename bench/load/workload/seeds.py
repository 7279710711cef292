"""Random streams: one for each purpose, all derived from one seed.

A stream depends on the seed and its purpose alone. A new purpose, or more draws of one, leaves every other stream as it
was: a change of the output lengths moves no arrival.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable
from random import Random


def stream(seed: int, *purpose: str | int) -> Random:
    """Return the random stream of a purpose.

    Args:
        seed: the benchmark's `--random-seed`.
        purpose: names and numbers that identify the stream, such as `"arrivals"`.
    """
    return Random(int.from_bytes(hashlib.sha256(key(seed, *purpose)).digest()))


def random_bytes(number: int, seed: int, *purpose: str | int) -> bytes:
    """Return the first bytes of the stream of a purpose; more bytes begin with the same ones.

    A `Random` takes longer to set up than the bytes of a short prompt take to make; SHAKE has no set-up.
    """
    return hashlib.shake_128(key(seed, *purpose)).digest(number)


def key(seed: int, *purpose: str | int) -> bytes:
    """Return bytes that differ for every seed and purpose."""
    return repr((seed, *purpose)).encode()


class Draws:
    """The draws of one stream by number: draw 17 is the same in whichever order draws are asked for.

    Args:
        draw: makes the next draw.
        rng: the stream.
    """

    def __init__(self, draw: Callable[[Random], float], rng: Random) -> None:
        self._draw = draw
        self._rng = rng
        self._drawn = array("d")

    def __getitem__(self, number: int) -> float:
        while len(self._drawn) <= number:
            self._drawn.append(self._draw(self._rng))
        return self._drawn[number]
