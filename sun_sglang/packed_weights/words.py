"""Integers of 1 to 8 bits, packed into 32-bit words without gaps: an integer may lie across two words.

The bits of a row are one stream: integer `i` has the bits from `i * num_bits` on, the lowest bit first
(`pack_to_int32` in `compressed_tensors/compressors/pack_quantized/helpers.py`, version 0.18). For 1, 2, 4 and 8 bits
every version of compressed-tensors writes the same words.
"""

from __future__ import annotations

import torch

_WORD = 32


def words_for(columns: int, num_bits: int) -> int:
    """Return the number of 32-bit words that a row of integers takes.

    Args:
        columns: integers in a row.
        num_bits: bits of one integer.
    """
    return -(-columns * num_bits // _WORD)


def pack(values: torch.Tensor, num_bits: int) -> torch.Tensor:
    """Return integers as words: `(rows, columns)` int8 to `(rows, words)` int32.

    Args:
        values: integers from `-2**(num_bits - 1)` to `2**(num_bits - 1) - 1`; each is stored plus `2**(num_bits - 1)`.
        num_bits: bits of one integer, 1 to 8.
    """
    rows, columns = values.shape
    _require_bits(num_bits)
    stored = values.to(torch.int32) + (1 << num_bits - 1)
    assert columns == 0 or (int(stored.min()) >= 0 and int(stored.max()) < 1 << num_bits), "an integer needs more bits"
    # 32 integers take exactly `num_bits` words
    padded = torch.nn.functional.pad(stored, (0, -columns % _WORD)).reshape(rows, -1, _WORD)
    words = torch.zeros(rows, padded.shape[1], num_bits, dtype=torch.int32)
    for place in range(_WORD):
        word, shift = divmod(place * num_bits, _WORD)
        # bits that a shift moves beyond the word are lost, and come first in the next one
        words[:, :, word] |= padded[:, :, place] << shift
        if shift + num_bits > _WORD:
            words[:, :, word + 1] |= padded[:, :, place] >> _WORD - shift
    return words.reshape(rows, -1)[:, : words_for(columns, num_bits)].contiguous()


def unpack(words: torch.Tensor, num_bits: int, columns: int) -> torch.Tensor:
    """Return the integers in words: `(rows, words)` int32 to `(rows, columns)` int8.

    Args:
        words: from `pack`.
        num_bits: bits of one integer, 1 to 8.
        columns: integers in a row.
    """
    rows = words.shape[0]
    _require_bits(num_bits)
    assert words.shape[1] == words_for(columns, num_bits), (tuple(words.shape), num_bits, columns)
    if num_bits == 4:
        # by far the most common, and training unpacks each layer twice a step: a byte holds two integers
        pairs = words.contiguous().view(torch.uint8)
        nibbles = torch.stack([pairs & 15, pairs >> 4], dim=-1).view(torch.int8)
        return nibbles.reshape(rows, -1)[:, :columns] - 8
    groups = torch.nn.functional.pad(words, (0, -words.shape[1] % num_bits)).reshape(rows, -1, num_bits)
    values = torch.empty(rows, groups.shape[1], _WORD, dtype=torch.int8, device=words.device)
    for place in range(_WORD):
        word, shift = divmod(place * num_bits, _WORD)
        # the shift keeps the sign, and the mask drops the copies of it
        low = min(num_bits, _WORD - shift)
        value = (groups[:, :, word] >> shift) & ((1 << low) - 1)
        if low < num_bits:
            value = value | (groups[:, :, word + 1] & ((1 << num_bits - low) - 1)) << low
        values[:, :, place] = value - (1 << num_bits - 1)
    return values.reshape(rows, -1)[:, :columns]


def _require_bits(num_bits: int) -> None:
    assert 1 <= num_bits <= 8, num_bits
