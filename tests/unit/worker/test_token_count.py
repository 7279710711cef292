"""Counting tokens as far as a limit needs it."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sun_sglang.contracts.token_count import TokenCount
from sun_sglang.worker.token_count import WINDOW, CountingTokenizer, count_tokens, make_counter


class Words:
    """Counts words, and remembers what it was given."""

    def __init__(self) -> None:
        self.given: list[str] = []

    def __call__(self, text: str) -> int:
        self.given.append(text)
        return len(text.split())


def test_a_short_text_is_counted_as_a_whole() -> None:
    words = Words()
    assert count_tokens("a b c", 2, words) == TokenCount(3, exact=True)
    assert words.given == ["a b c"]


def test_a_text_far_over_the_limit_is_not_read_to_its_end() -> None:
    words = Words()
    found = count_tokens("word " * 1_000_000, 1000, words)
    assert found.tokens > 1000
    assert not found.exact
    assert [len(piece) for piece in words.given] == [WINDOW]


def test_a_text_far_below_the_limit_is_read_once() -> None:
    words = Words()
    text = "word " * 100_000
    found = count_tokens(text, 1_000_000, words)
    assert found.tokens <= 1_000_000
    assert "".join(words.given) == text


def test_a_text_near_the_limit_is_counted_as_a_whole() -> None:
    text = "word " * 100_000
    assert count_tokens(text, 100_000, Words()) == TokenCount(100_000, exact=True)
    assert count_tokens(text, 99_999, Words()) == TokenCount(100_000, exact=True)


@given(st.integers(1, 300_000), st.integers(1, 400_000))
def test_a_count_is_on_the_right_side_of_the_limit(words: int, most: int) -> None:
    found = count_tokens("w " * words, most, lambda text: len(text.split()))
    assert (found.tokens > most) == (words > most)
    assert not found.exact or found.tokens == words


@pytest.fixture
def fast() -> Any:
    words = ["<bos>", "[UNK]", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=50)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>")


def test_a_private_count_is_what_the_tokenizer_encodes(fast: Any) -> None:
    text = "hello wörld, <bos> " * 50
    assert make_counter(fast)(text) == len(fast.encode(text, add_special_tokens=False))


def test_a_private_count_runs_beside_the_tokenizer(fast: Any) -> None:
    """One tokenizer in two threads is `RuntimeError: Already borrowed`, since each call sets its truncation."""
    count, text = make_counter(fast), "hello " * 2000
    counts: list[int] = []
    thread = threading.Thread(target=lambda: counts.extend(count(text) for _ in range(20)))
    thread.start()
    for _ in range(20):
        fast(text, truncation=True, max_length=7)
    thread.join()
    assert counts == [12_000] * 20


def test_the_counting_tokenizer_stands_in_for_the_real_one(fast: Any) -> None:
    counting = CountingTokenizer(fast, make_counter(fast), 1000)
    assert len(counting.encode("hello")) == len(fast.encode("hello"))
    assert counting.exact
    assert counting.bos_token == "<bos>"
    assert len(counting.encode("x" * 10_000_000, add_special_tokens=False)) < 2 * WINDOW
    assert not counting.exact
