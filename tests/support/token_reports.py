"""Read the comment line by which a worker's stream reports its tokens."""

from __future__ import annotations

from array import array

from sun_sglang.contracts.replay import TOKENS_COMMENT


def split_tokens(event: bytes) -> tuple[array[int] | None, bytes]:
    """Split an event, or a piece that begins with one, into the tokens of its first line and the rest.

    The tokens are None if the first line is no such comment.

    Raises:
        ValueError: the line holds something else than token ids.
    """
    if not event.startswith(TOKENS_COMMENT):
        return None, event
    end = event.index(b"\n")
    return array("i", map(int, event[len(TOKENS_COMMENT) : end].split(b","))), event[end + 1 :]
