"""The layout of a packed row: the columns that each module runs, and the columns that each token attends to."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sun_sglang.train.objective.packed_attention import Blocks, find_blocks


@dataclass(frozen=True)
class Layout:
    """The columns of a packed row, which are counted over all prompts and then over all answers.

    Attributes:
        owner: [columns], example of each token, from 1.
        where: [columns], position of each token in its example, from 0.
        prompt_ends: [examples], column of each prompt's last token.
        prompt_rest: all other columns of prompts.
        answer_starts: [examples], column of each answer's first token.
        answer_rest: all other columns of answers.
        answer_inputs: columns of answers that another token of the same answer follows.
    """

    owner: torch.Tensor
    where: torch.Tensor
    prompt_ends: torch.Tensor
    prompt_rest: torch.Tensor
    answer_starts: torch.Tensor
    answer_rest: torch.Tensor
    answer_inputs: torch.Tensor

    def blocks(self, queries: torch.Tensor, keys: torch.Tensor) -> Blocks:
        """Return the blocks of a forward pass.

        Args:
            queries: columns that the pass runs.
            keys: columns in the cache after the pass; the queries are the last of them.
        """
        return find_blocks(self.owner[queries] - 1, self.owner[keys] - 1, self.where[keys])


def lay_out(prompt_owner: torch.Tensor, answer_owner: torch.Tensor) -> Layout:
    """Return the layout of a row, from the example of each prompt token and of each answer token.

    Both arguments have the shape [tokens] and count examples from 1, in rising order.
    """
    prompts = len(prompt_owner)
    lengths = torch.bincount(prompt_owner)
    where = torch.cat([_rank(prompt_owner), _rank(answer_owner) + lengths[answer_owner]])
    starts = _rank(answer_owner) == 0
    ends, answer_ends = _last(prompt_owner), _last(answer_owner)
    return Layout(
        torch.cat([prompt_owner, answer_owner]),
        where,
        ends.nonzero()[:, 0],
        (~ends).nonzero()[:, 0],
        starts.nonzero()[:, 0] + prompts,
        (~starts).nonzero()[:, 0] + prompts,
        (~answer_ends).nonzero()[:, 0] + prompts,
    )


def _rank(owner: torch.Tensor) -> torch.Tensor:
    """Return how many tokens of the same example are before each token: [tokens] -> [tokens]."""
    return torch.arange(len(owner), device=owner.device) - torch.searchsorted(owner, owner)


def _last(owner: torch.Tensor) -> torch.Tensor:
    """Return whether each token is the last of its example: [tokens] -> [tokens]."""
    return torch.cat([owner[1:] != owner[:-1], owner.new_ones(1, dtype=torch.bool)])
