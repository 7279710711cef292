"""The most bytes of text that one token of a tokenizer can cover. Pure.

A text of more than `bound * tokens` bytes has more than `tokens` tokens, and the tokenizer need not run to show it. The
bound exists only if every byte of a text belongs to a token. It does not exist where a part of the tokenizer is unknown
to this module, or may drop or merge text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_SPACE = "▁"
# Most bytes that become one byte by Unicode normalization; tests/unit/worker/test_token_bytes.py computes the numbers.
_SHRINKS = {"NFC": 4, "NFD": 3, "NFKC": 4, "NFKD": 4}
# These split a text and keep all of it.
_SPLITTERS = frozenset({"ByteLevel", "Metaspace", "Digits", "UnicodeScripts"})
# These split a text, and may drop the separators.
_PATTERN_SPLITTERS = frozenset({"Split", "Punctuation"})


def max_token_bytes(tokenizer: Mapping[str, Any]) -> int | None:
    """Return the most bytes of UTF-8 that one token may cover; None if there is no bound.

    Args:
        tokenizer: the content of a `tokenizer.json` (Hugging Face tokenizers).
    """
    shrink = _shrink(tokenizer.get("normalizer"))
    if shrink is None or not _keeps_text(tokenizer.get("pre_tokenizer")):
        return None
    byte_level = _has_byte_level(tokenizer.get("pre_tokenizer")) or _has_byte_level(tokenizer.get("normalizer"))
    words = _words(tokenizer.get("model") or {}, byte_level=byte_level)
    added = _added(tokenizer.get("added_tokens") or ())
    if words is None or added is None:
        return None
    return max(words * shrink, added * shrink)


def _shrink(normalizer: Mapping[str, Any] | None) -> int | None:
    """Return the most bytes of a text that become one byte of the normalized text; None if there is no bound."""
    match normalizer:
        case None | {"type": "Prepend" | "ByteLevel"}:
            return 1
        case {"type": "NFC" | "NFD" | "NFKC" | "NFKD" as form}:
            return _SHRINKS[form]
        case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)} if old:
            return 1 if len(new.encode()) >= len(old.encode()) else None
        case {"type": "Sequence", "normalizers": [*parts]}:
            total = 1
            for part in parts:
                factor = _shrink(part)
                if factor is None:
                    return None
                total *= factor
            return total
    return None


def _keeps_text(pre_tokenizer: Mapping[str, Any] | None) -> bool:
    match pre_tokenizer:
        case None:
            return True
        case {"type": "Sequence", "pretokenizers": [*parts]}:
            return all(map(_keeps_text, parts))
        case {"type": str(kind)} if kind in _SPLITTERS:
            return True
        case {"type": str(kind), "behavior": str(behavior)} if kind in _PATTERN_SPLITTERS:
            return behavior != "Removed"
    return False


def _has_byte_level(part: Mapping[str, Any] | None) -> bool:
    if part is None:
        return False
    inner = part.get("pretokenizers") or part.get("normalizers") or ()
    return part.get("type") == "ByteLevel" or any(map(_has_byte_level, inner))


def _words(model: Mapping[str, Any], *, byte_level: bool) -> int | None:
    """Return the longest word of a vocabulary in bytes; None if a word of any length may become one token or none."""
    kind = model.get("type", "BPE" if "merges" in model else None)
    vocab = model.get("vocab") or ()
    words = {word for word, _ in vocab} if kind == "Unigram" else set(vocab)
    if kind not in ("BPE", "Unigram") or not words:
        return None
    if byte_level:
        # each character stands for one byte
        return max(map(len, words)) if kind == "BPE" and words.issuperset(_byte_alphabet()) else None
    if not _takes_unknown(model, words, kind):
        return None
    # at least four bytes: a character that is in no word
    return max(4, max(len(word.replace(_SPACE, " ").encode()) for word in words))


def _takes_unknown(model: Mapping[str, Any], words: set[str], kind: str) -> bool:
    """Return whether each character that is in no word becomes a token of its own."""
    if model.get("byte_fallback") and words.issuperset(f"<0x{byte:02X}>" for byte in range(256)):
        return True
    return kind == "BPE" and model.get("unk_token") in words and not model.get("fuse_unk")


def _added(tokens: Iterable[Mapping[str, Any]]) -> int | None:
    """Return the longest added token in bytes; None if one absorbs any number of spaces beside it."""
    longest = 1
    for token in tokens:
        if token.get("lstrip") or token.get("rstrip"):
            return None
        longest = max(longest, len(str(token.get("content", "")).encode()))
    return longest


def _byte_alphabet() -> set[str]:
    """Return the characters that stand for bytes in byte-level vocabularies (GPT-2's `bytes_to_unicode`)."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    return {chr(byte) for byte in plain} | {chr(0x100 + i) for i in range(256 - len(plain))}
