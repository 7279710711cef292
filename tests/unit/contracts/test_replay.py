"""The mark and the comment line by which tokens of a stream travel."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.contracts.first_token import mark_decode_first, read_mark
from sun_sglang.contracts.replay import Replay, mark_replay, read_replay, tokens_comment
from tests.support.token_reports import split_tokens

TOKENS = st.lists(st.integers(0, 2**31 - 1))
NAMESPACES = st.text(min_size=1).filter(lambda text: not text.startswith("@"))


@given(TOKENS, NAMESPACES, st.booleans())
def test_mark_is_read_as_it_was_written_beside_the_mark_of_the_first_token(
    tokens: list[int], namespace: str, decode_first: bool
) -> None:
    key = mark_decode_first(namespace) if decode_first else namespace
    marked = mark_replay(key, tokens)
    assert read_replay(marked) == Replay(array("i", tokens), key)
    assert read_mark(marked).decode_first is decode_first


@pytest.mark.parametrize("key", [None, ["pool@1"], "pool@1", "pool@1#@tokens:@", mark_decode_first("pool@1")])
def test_value_without_a_mark_stays_as_it_is(key: object) -> None:
    assert read_replay(key) == Replay(None, key if isinstance(key, str) else None)


@pytest.mark.parametrize("text", ["AAA=", "A", "=AAA"])
def test_mark_whose_tokens_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        read_replay(f"@tokens:{text}@pool@1")


@given(st.lists(st.integers(0, 2**31 - 1), min_size=1), st.binary())
def test_comment_line_is_split_off_its_event(tokens: list[int], rest: bytes) -> None:
    assert split_tokens(tokens_comment(tokens) + rest) == (array("i", tokens), rest)


def test_event_without_the_comment_stays_as_it_is() -> None:
    assert split_tokens(b"data: {}\n\n") == (None, b"data: {}\n\n")
    assert split_tokens(b": another comment\n\n") == (None, b": another comment\n\n")
