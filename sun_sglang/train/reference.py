"""Greedy generation with a prefill and a decode module: the reference for the answers of the served system."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from sun_sglang.contracts.scheme import Side
from sun_sglang.train.data.collate import pad_prompts, positions

# changes the prefill module's cache in place; the other arguments are the decode module's cache of the same tokens,
# and the attention mask
KvMix = Callable[[DynamicCache, DynamicCache, torch.Tensor], None]


@dataclass(frozen=True)
class GreedyOutput:
    """One greedy answer.

    Attributes:
        tokens: token ids, with the end token where the answer has one.
        margins: for every token, its logit minus the second best logit. A small margin is a tie that other arithmetic
            may break differently.
    """

    tokens: tuple[int, ...]
    margins: tuple[float, ...]


@torch.inference_mode()
def greedy(
    prefill: Any,
    decode: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    end_tokens: Collection[int] = (),
    first_token: Side = "prefill",
    mix: KvMix | None = None,
) -> list[GreedyOutput]:
    """Return greedy answers as disaggregated serving computes them (SUN, Eq. 2-4).

    One prompt runs without padding and is the exact reference. Several prompts are padded on the left and run together.

    Args:
        prefill: causal LM that runs the prompts.
        decode: causal LM that continues from the prefill module's KV cache; may be the same object.
        prompts: token ids; at least one token each, two where the decode module makes the first token.
        max_new_tokens: most tokens of an answer.
        end_tokens: token ids that end an answer.
        first_token: the side that makes the first token. `prefill`: from the prefill module's last logit, as SGLang
            does. `decode`: the decode module runs the last prompt token.
        mix: changes the KV cache before the decode module reads it; the decode module then runs the prompt too.

    Returns:
        One answer for each prompt, in order.
    """
    prefill.eval()
    decode.eval()
    ids, mask = pad_prompts(prompts, pad=0)
    assert first_token == "prefill" or min(map(len, prompts)) > 1
    rows: list[tuple[list[int], list[float]]] = [([], []) for _ in prompts]
    running = [True] * len(prompts)

    cache = DynamicCache(config=prefill.config)
    module, pending = prefill, ids
    if first_token == "decode":
        prefill(
            input_ids=ids[:, :-1],
            attention_mask=mask[:, :-1],
            position_ids=positions(mask)[:, :-1],
            past_key_values=cache,
        )
        module, pending = decode, ids[:, -1:]
        if mix is not None:
            mix(cache, _cache_of(decode, ids[:, :-1], mask[:, :-1]), mask[:, :-1])
    for step in range(max_new_tokens):
        out = module(
            input_ids=pending,
            attention_mask=mask,
            position_ids=positions(mask)[:, -pending.shape[1] :],
            past_key_values=cache,
            logits_to_keep=1,
        )
        assert cache.get_seq_length() == mask.shape[1]
        if mix is not None and step == 0 and first_token == "prefill":
            mix(cache, _cache_of(decode, ids, mask), mask)
        best = out.logits[:, -1].float().topk(2)
        for i, (tokens, margins) in enumerate(rows):
            if running[i]:
                tokens.append(int(best.indices[i, 0]))
                margins.append(float(best.values[i, 0] - best.values[i, 1]))
                running[i] = tokens[-1] not in end_tokens
        if not any(running):
            break
        module, pending = decode, best.indices[:, :1]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
    return [GreedyOutput(tuple(tokens), tuple(margins)) for tokens, margins in rows]


def _cache_of(module: Any, ids: torch.Tensor, mask: torch.Tensor) -> DynamicCache:
    cache = DynamicCache(config=module.config)
    module(input_ids=ids, attention_mask=mask, position_ids=positions(mask), past_key_values=cache, logits_to_keep=1)
    return cache
