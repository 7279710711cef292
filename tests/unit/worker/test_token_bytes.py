"""The lower bound of a prompt's length: no token covers more bytes than the bound."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from sun_sglang.worker.token_bytes import _SHRINKS, max_token_bytes

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
FALLBACK = [f"<0x{byte:02X}>" for byte in range(256)]


def content(tokenizer: Tokenizer) -> dict[str, Any]:
    return dict(json.loads(tokenizer.to_str()))


def byte_level(*words: str, normalizer: Any = None) -> Tokenizer:
    """Return a byte-level BPE whose merges make these words."""
    vocab = {word: i for i, word in enumerate(ALPHABET)}
    merges = []
    for word in words:
        for end in range(2, len(word) + 1):
            if word[:end] not in vocab:
                vocab[word[:end]] = len(vocab)
                merges.append((word[: end - 1], word[end - 1]))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return tokenizer


def sentencepiece(*, fallback: bool = True, **more: Any) -> Tokenizer:
    """Return a BPE like Llama 2's: spaces are `▁`, characters that it does not have are bytes."""
    words = ["<unk>", *FALLBACK, "▁", "a", "b", "ab", "▁▁", "é"]
    merges = [("a", "b"), ("▁", "▁")]
    tokenizer = Tokenizer(
        models.BPE({word: i for i, word in enumerate(words)}, merges, byte_fallback=fallback, unk_token="<unk>", **more)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tokenizer


def added(*tokens: AddedToken) -> Tokenizer:
    tokenizer = byte_level("abcd")
    tokenizer.add_tokens(list(tokens))
    return tokenizer


def test_a_byte_level_token_covers_as_many_bytes_as_it_has_characters() -> None:
    assert max_token_bytes(content(byte_level())) == 1
    # `Ġ` and `Ã` are two bytes of UTF-8 each, and stand for one byte
    assert max_token_bytes(content(byte_level("ĠĠĠĠ", "Ã©"))) == 4


def test_an_added_token_counts_with_all_its_bytes() -> None:
    assert max_token_bytes(content(added(AddedToken("<|a very long marker|>")))) == 22
    assert max_token_bytes(content(added(AddedToken("\uff5c" * 5)))) == 15


@pytest.mark.parametrize("side", ["lstrip", "rstrip"])
def test_an_added_token_that_takes_spaces_leaves_no_bound(side: str) -> None:
    tokenizer = added(AddedToken("<mask>", **{side: True}))
    assert max_token_bytes(content(tokenizer)) is None
    assert len(tokenizer.encode(" " * 500 + "<mask>" + " " * 500)) < 510, "or it would need no exception"


def test_a_normalizer_that_composes_characters_widens_the_bound() -> None:
    assert max_token_bytes(content(byte_level("abcd", normalizer=normalizers.NFC()))) == 16
    both = normalizers.Sequence([normalizers.NFC(), normalizers.NFKC()])
    assert max_token_bytes(content(byte_level(normalizer=both))) == 16


@pytest.mark.parametrize(
    "normalizer",
    [
        normalizers.Strip(),
        normalizers.StripAccents(),
        normalizers.Lowercase(),
        normalizers.BertNormalizer(),
        normalizers.Nmt(),
        normalizers.Replace("aaaa", "a"),
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Sequence([normalizers.NFC(), normalizers.Strip()]),
    ],
)
def test_a_normalizer_that_may_shorten_a_text_leaves_no_bound(normalizer: Any) -> None:
    assert max_token_bytes(content(byte_level(normalizer=normalizer))) is None


@pytest.mark.parametrize(
    ("splitter", "bounded"),
    [
        (pre_tokenizers.Split(Regex(r"\d"), "isolated"), True),
        (pre_tokenizers.Split(" ", "merged_with_next"), True),
        (pre_tokenizers.Split(" ", "removed"), False),
        (pre_tokenizers.Punctuation("contiguous"), True),
        (pre_tokenizers.Punctuation("removed"), False),
        (pre_tokenizers.Digits(individual_digits=True), True),
        (pre_tokenizers.Whitespace(), False),
        (pre_tokenizers.WhitespaceSplit(), False),
        (pre_tokenizers.BertPreTokenizer(), False),
        (pre_tokenizers.CharDelimiterSplit("x"), False),
    ],
)
def test_a_splitter_that_drops_text_leaves_no_bound(splitter: Any, bounded: bool) -> None:
    tokenizer = byte_level("abcd")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([splitter, level])
    assert max_token_bytes(content(tokenizer)) == (4 if bounded else None)


def test_sentencepiece_has_a_bound_where_each_unknown_character_makes_a_token() -> None:
    assert max_token_bytes(content(sentencepiece())) == 6, "`<0x00>` as a word"
    assert max_token_bytes(content(sentencepiece(fallback=False))) == 6
    assert max_token_bytes(content(sentencepiece(fallback=False, fuse_unk=True))) is None


def test_models_that_make_one_token_of_any_unknown_word_have_no_bound() -> None:
    words = {"[UNK]": 0, "a": 1}
    assert max_token_bytes(content(Tokenizer(models.WordPiece(words, unk_token="[UNK]")))) is None
    assert max_token_bytes(content(Tokenizer(models.WordLevel(words, unk_token="[UNK]")))) is None
    assert max_token_bytes(content(Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0)))) is None
    # characters that it does not have vanish
    assert max_token_bytes(content(Tokenizer(models.BPE({"a": 0, "b": 1}, [])))) is None
    assert max_token_bytes({}) is None


TOKENIZERS = [
    byte_level("ĠĠĠĠ", "abcd", "Ã©"),
    byte_level("abcd", "Îĳ", normalizer=normalizers.NFC()),
    byte_level("abcd", normalizer=normalizers.NFKC()),
    sentencepiece(),
    sentencepiece(fallback=False),
    added(AddedToken("<|marker|>"), AddedToken("é́", normalized=True)),
]
PIECES = st.sampled_from(
    ["abcd", " " * 9, "<|marker|>", "é", "e\u0301", "ΐ", "\u1fbe\u0308\u0301", "\U0001d7ce", "각", "\x00"]
)


@given(st.sampled_from(TOKENIZERS), st.lists(PIECES | st.text(), max_size=20).map("".join))
def test_no_text_has_fewer_tokens_than_its_bytes_say(tokenizer: Tokenizer, text: str) -> None:
    bound = max_token_bytes(content(tokenizer))
    assert bound is not None
    assert len(tokenizer.encode(text)) * bound >= len(text.encode())


@pytest.mark.parametrize("form", _SHRINKS)
def test_no_character_is_made_of_more_bytes_than_the_normalization_forms_factor_says(form: Any) -> None:
    """Each character of a normalized text stands for the parts that it decomposes to, however those were written."""
    full = "NFKD" if "K" in form else "NFD"
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    parts = {c: unicodedata.normalize(full, c) for c in characters if not unicodedata.is_normalized(full, c)}
    widest: dict[str, int] = {}
    for character, made in parts.items():
        if len(made) == 1:
            widest[made] = max(widest.get(made, 0), len(character.encode()))

    def written(made: str) -> int:
        return sum(max(widest.get(part, 0), len(part.encode())) for part in made)

    assert all(len(character.encode()) <= written(made) for character, made in parts.items())
    stands_for = {made: made for made in widest} | parts
    results = {c: made for c, made in stands_for.items() if unicodedata.is_normalized(form, c)}
    assert max(written(made) / len(c.encode()) for c, made in results.items()) <= _SHRINKS[form]
