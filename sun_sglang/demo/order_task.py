"""A third task, which the demo's base has never seen: letters put in order. The demo does not serve it."""

from __future__ import annotations

from random import Random

from sun_sglang.train.data.examples import Example

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def order(rng: Random) -> Example:
    """`order dbac please` -> `abcd`; three to six different letters."""
    letters = rng.sample(_LETTERS, rng.randint(3, 6))
    return Example(f"order {''.join(letters)} please", "".join(sorted(letters)))
