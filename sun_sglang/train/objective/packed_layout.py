"""The layout of a packed row: the columns that each module runs, and the columns that each token attends to."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sun_sglang.train.objective.packed_attention import Blocks, find_blocks


@dataclass(frozen=True)
class Layout:
    """Where the tokens of a packed row are: columns are counted over the prompts, then the answers.

    Attributes:
        owner: [columns], the example of each token.
        where: [columns], its position in that example.
        prompt_ends: [examples], the column of each prompt's last token.
        prompt_rest: the other columns of prompts.
        answer_starts: [examples], the column of each answer's first token.
        answer_rest: the other columns of answers.
        answer_inputs: columns of answers that are followed by another of the same answer.
    """

    owner: torch.Tensor
    where: torch.Tensor
    prompt_ends: torch.Tensor
    prompt_rest: torch.Tensor
    answer_starts: torch.Tensor
    answer_rest: torch.Tensor
    answer_inputs: torch.Tensor

    def blocks(self, queries: torch.Tensor, keys: torch.Tensor) -> Blocks:
        """Who attends to whom, for columns that are run and all that the cache then holds, these last."""
        return find_blocks(self.owner[queries] - 1, self.owner[keys] - 1, self.where[keys])


def lay_out(prompt_owner: torch.Tensor, answer_owner: torch.Tensor) -> Layout:
    """The layout of a row whose prompts and answers belong to the examples given: both [tokens], rising from 1."""
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
    """How many tokens of the same owner come before each: [tokens] -> [tokens]."""
    return torch.arange(len(owner), device=owner.device) - torch.searchsorted(owner, owner)


def _last(owner: torch.Tensor) -> torch.Tensor:
    """Whether each is the last token of its owner: [tokens] -> [tokens]."""
    return torch.cat([owner[1:] != owner[:-1], owner.new_ones(1, dtype=torch.bool)])
