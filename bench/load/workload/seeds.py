"""Random streams: one for each purpose, all derived from one seed.

A stream depends on the seed and its purpose alone. A new purpose, or more draws of one, leaves every other stream as it
was: a change of the output lengths moves no arrival.
"""

from __future__ import annotations

import hashlib
from random import Random


def stream(seed: int, *purpose: str | int) -> Random:
    """Return the random stream of a purpose.

    Args:
        seed: the benchmark's `--random-seed`.
        purpose: names and numbers that identify the stream, such as `"prompt", 17`.
    """
    name = "\0".join(str(part) for part in (seed, *purpose))
    return Random(int.from_bytes(hashlib.sha256(name.encode()).digest()))
