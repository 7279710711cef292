"""Attention of a packed row, example by example; the rest of a layer runs on all tokens of the row.

One mask over the whole row would be correct too, but would cost the square of the row's length. Here queries and keys
are gathered by example, padded to the longest example, attend in one call, and are scattered back into the row.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PACKED = "sun_packed"


class Blocks:
    """The blocks of a packed row: which queries attend to which keys.

    This is no dataclass: FSDP2 copies dataclasses that enter a layer, and `layers` would be counted on the copies.

    Attributes:
        queries: [examples, most queries], index of the query in each slot; 0 where an example has fewer queries.
        keys: [examples, most keys], index of the key in each slot, in the order of the cache.
        seen: [examples, 1, most queries, most keys], True where a query attends to a key.
        slots: [queries], slot of each query, counted over all examples.
        layers: number of layers that have run with these blocks.
    """

    def __init__(self, queries: torch.Tensor, keys: torch.Tensor, seen: torch.Tensor, slots: torch.Tensor) -> None:
        self.queries, self.keys, self.seen, self.slots = queries, keys, seen, slots
        self.layers = 0


def find_blocks(query_owner: torch.Tensor, key_owner: torch.Tensor, key_where: torch.Tensor) -> Blocks:
    """Return the blocks of a row.

    Args:
        query_owner: [queries], example of each query, from 0. The queries of an example are its last tokens.
        key_owner: [keys], example of each key, from 0. Every example has at least one key.
        key_where: [keys], position of each key in its example. Every position up to the last has a key.
    """
    examples = int(key_owner.max()) + 1
    new, all_of = (torch.bincount(owner, minlength=examples) for owner in (query_owner, key_owner))
    assert bool((all_of > 0).all())
    most_new, most = int(new.max()), int(all_of.max())
    keys = key_owner.new_zeros(examples, most)
    keys[key_owner, key_where] = torch.arange(len(key_owner), device=keys.device)
    # the queries are the last keys
    query_where = key_where[len(key_owner) - len(query_owner) :] - (all_of - new)[query_owner]
    queries = keys.new_zeros(examples, most_new)
    queries[query_owner, query_where] = torch.arange(len(query_owner), device=keys.device)
    place, reach = (torch.arange(n, device=keys.device) for n in (most, most_new))
    # a slot without a query attends to some key too: a softmax over no keys is NaN
    seen = (place < all_of[:, None])[:, None] & (place <= ((all_of - new)[:, None] + reach)[..., None])
    return Blocks(queries, keys, seen[:, None], query_owner * most_new + query_where)


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    packed: Blocks | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Run the `sdpa` attention of transformers, by example where the batch is a packed row.

    Args:
        module: the attention layer.
        query: [1, heads, queries, width].
        key: [1, key-value heads, keys, width].
        value: as `key`.
        attention_mask: the mask of a batch that is not packed.
        packed: the blocks of a packed row.
        options: passed to transformers.

    Returns:
        [1, queries, heads, width], and None for the attention weights.
    """
    if packed is None:
        plain: tuple[torch.Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return plain
    packed.layers += 1
    query = query[0, :, packed.queries].transpose(0, 1)
    key, value = (part[0, :, packed.keys].transpose(0, 1) for part in (key, value))
    out = sdpa_attention_forward(module, query, key, value, packed.seen, **options)[0]
    return out.flatten(0, 1)[packed.slots][None], None


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, sdpa_mask)
