"""The loss of a prefill module and a decode module, computed as disaggregated serving computes an answer.

The prefill module runs the prompt. It produces the KV cache and, in SGLang, the first output token. The decode module
reads the cache and makes every later token (SUN, section 3.1, Eq. 2-4). Training minimises the negative log-likelihood
of the answer along this path (Eq. 6). Where the decode module is frozen, gradients reach the prefill module through
the cache (Eq. 5) and through its last logit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.functional import cross_entropy
from transformers import DynamicCache
from transformers.utils import ModelOutput

from sun_sglang.contracts.scheme import Scheme
from sun_sglang.train.data.collate import IGNORED, positions
from sun_sglang.train.objective.packed_attention import PACKED
from sun_sglang.train.objective.packed_layout import lay_out


@dataclass
class TwoModuleOutput(ModelOutput):  # type: ignore[misc] # transformers is not followed, so its classes are Any
    """The output of a forward pass.

    Attributes:
        loss: scalar; negative log-likelihood of the answers, summed and divided by the number of answer tokens.
        logits: [batch, answer, vocabulary]; `logits[:, t]` is the distribution of answer token `t`. None for a packed
            row.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None


class TwoModule(nn.Module):
    """A prefill module and a decode module; the scheme selects the trained side.

    Args:
        prefill: Hugging Face causal LM that runs the prompt.
        decode: causal LM with the same KV layout that runs the answer; the same object where the scheme has one module.
        scheme: the trained sides, and the side that makes the first token. With `decode` the loss is Eq. 6 as written.
    """

    # transformers.Trainer then passes `num_items_in_batch` when it accumulates gradients
    accepts_loss_kwargs = True

    def __init__(self, prefill: nn.Module, decode: nn.Module, scheme: Scheme) -> None:
        super().__init__()
        assert (prefill is decode) == scheme.one_module, (
            "the modules are one object if and only if the scheme has one module"
        )
        self.prefill = prefill
        self.decode = decode
        self.scheme = scheme
        # the layers that FSDP shards, unless its configuration names others
        self._no_split_modules = list(cast(Any, getattr(prefill, "_no_split_modules", None)) or [])
        prefill.requires_grad_("prefill" in scheme.trains)
        decode.requires_grad_("decode" in scheme.trains)

    @property
    def tuned(self) -> nn.Module:
        """The module that the scheme trains."""
        return self.prefill if self.scheme.tuned_side == "prefill" else self.decode

    @property
    def leaves_parameters_unused(self) -> bool:
        """Whether trained parameters may get no gradient: those above the last KV of a side that makes no token."""
        return not self.scheme.tuned_makes_first_token

    def train(self, mode: bool = True) -> TwoModule:
        """Set the mode of the trained side; a frozen side stays in evaluation mode, as in serving."""
        super().train(mode)
        if "decode" not in self.scheme.trains:
            self.decode.eval()
        if "prefill" not in self.scheme.trains:
            self.prefill.eval()
        return self

    def forward(
        self,
        prompt_ids: torch.Tensor,
        prompt_mask: torch.Tensor,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
        answer_mask: torch.Tensor | None = None,
    ) -> TwoModuleOutput:
        """Return loss and logits of the answers.

        Args:
            prompt_ids: [batch, prompt], padded on the left.
            prompt_mask: [batch, prompt], 1 for a token and 0 for padding.
            labels: [batch, answer], token ids of the answers, padded on the right with -100.
            num_items_in_batch: number of answer tokens to divide by, where a step has several batches; None for the
                number of this batch.
            answer_mask: only for a packed row (`packing.collate_row`): [1, answer], the example of each label, from 1.
                `prompt_mask` is then the example of each prompt token.
        """
        if answer_mask is None:
            total, logits = self._padded(prompt_ids, prompt_mask, labels)
        else:
            total, logits = self._packed(prompt_ids, prompt_mask, labels, answer_mask), None
        tokens = (labels != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        return TwoModuleOutput(total / tokens, logits)

    def _padded(
        self, prompt_ids: torch.Tensor, prompt_mask: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert bool(prompt_mask[:, -1].all()), "prompts are padded on the left"
        handed_over = prompt_ids.shape[1] - (self.scheme.first_token == "decode")
        assert handed_over > 0, "a prompt has too few tokens for the prefill module"

        ids = torch.cat([prompt_ids, labels.clamp(min=0)], dim=1)
        mask = torch.cat([prompt_mask, (labels != IGNORED).long()], dim=1)
        where, last = positions(mask), ids.shape[1] - 1

        def run(module: nn.Module, start: int, end: int, cache: DynamicCache, keep: int) -> torch.Tensor:
            return _run(module, cache, ids[:, start:end], mask[:, :end], where[:, start:end], keep)

        cache = _new_cache(self.prefill)
        prompt_logits = run(self.prefill, 0, handed_over, cache, 1)
        first = [prompt_logits] if self.scheme.first_token == "prefill" else []
        rest = [run(self.decode, handed_over, last, cache, 0)] if last > handed_over else []
        logits = torch.cat([*first, *rest], dim=1)
        assert logits.shape[:2] == labels.shape
        total = _loss(logits.flatten(0, 1), labels.flatten())
        return self._linked(total, prompt_logits), logits

    def _packed(
        self, prompt_ids: torch.Tensor, prompt_owner: torch.Tensor, labels: torch.Tensor, answer_owner: torch.Tensor
    ) -> torch.Tensor:
        assert len(prompt_ids) == 1, "a packed batch is one row"
        row = lay_out(prompt_owner[0], answer_owner[0])
        ids = torch.cat([prompt_ids, labels], dim=1)
        cache = _new_cache(self.prefill)

        def run(module: nn.Module, new: torch.Tensor, seen: torch.Tensor, keep: torch.Tensor | int) -> torch.Tensor:
            blocks = row.blocks(new, seen)
            # transformers builds no mask where it receives one with four dimensions
            mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=ids.device)
            logits = _run(module, cache, ids[:, new], mask, row.where[None, new], keep, packed=blocks)[0]
            layers = cast(Any, module.config).num_hidden_layers
            assert blocks.layers == layers, f"{blocks.layers} of {layers} layers ran {PACKED} attention"
            return logits

        first, rest = ids[0, row.answer_starts], ids[0, row.answer_rest]
        if self.scheme.first_token == "prefill":
            prompts = torch.arange(prompt_ids.shape[1], device=ids.device)
            total = _loss(run(self.prefill, prompts, prompts, row.prompt_ends), first)
            if len(row.answer_inputs):
                seen = torch.cat([prompts, row.answer_inputs])
                total = total + _loss(run(self.decode, row.answer_inputs, seen, 0), rest)
            return total
        assert len(row.prompt_rest), "a prompt has too few tokens for the prefill module"
        unused = run(self.prefill, row.prompt_rest, row.prompt_rest, 1)
        new = torch.cat([row.prompt_ends, row.answer_inputs])
        logits = run(self.decode, new, torch.cat([row.prompt_rest, new]), 0)
        return self._linked(_loss(logits, torch.cat([first, rest])), unused)

    def _linked(self, total: torch.Tensor, prompt_logits: torch.Tensor) -> torch.Tensor:
        """Return the loss; where parameters are sharded, with a zero gradient to the logits of the prefill module.

        FSDP2 gathers a layer's weights for the backward pass when a gradient reaches the layer's output. The last layer
        of a prefill module that makes no token gets gradients only through its keys and values, so without this term
        its weights would not be gathered.
        """
        if self.scheme.first_token == "decode" and isinstance(self, FSDPModule):
            return total + 0.0 * prompt_logits.sum()
        return total


def _loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    # FSDP2 computes in the dtype of its policy, without autocast, which would compute the loss in float32
    at_least = torch.promote_types(logits.dtype, torch.float32)
    return cross_entropy(logits.to(at_least), labels, ignore_index=IGNORED, reduction="sum")


def _run(
    module: nn.Module,
    cache: DynamicCache,
    ids: torch.Tensor,
    mask: torch.Tensor,
    where: torch.Tensor,
    keep: torch.Tensor | int,
    **options: object,
) -> torch.Tensor:
    """Run tokens after those in the cache, append their keys and values, and return logits [batch, kept, vocabulary].

    Args:
        module: the causal LM.
        cache: keys and values of all earlier tokens; extended in place.
        ids: [batch, tokens].
        mask: [batch, cached and new tokens], or four dimensions for a packed row.
        where: [batch, tokens], positions.
        keep: number of last tokens whose logits are returned (0: all), or the indices of the tokens.
        options: passed to the model.
    """
    expected = cache.get_seq_length() + ids.shape[1]
    if isinstance(keep, int) and keep:
        # a slice of the last tokens is not contiguous: torch would then copy the vocabulary matrix for every row
        keep = torch.arange(ids.shape[1] - keep, ids.shape[1], device=ids.device)
    out: Any = module(
        input_ids=ids,
        attention_mask=mask,
        position_ids=where,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=keep,
        **options,
    )
    # transformers' gradient checkpointing drops the cache, and the loss stays finite without it
    length = 0 if out.past_key_values is None else cache.get_seq_length()
    assert length == expected, f"the KV cache holds {length} tokens of {expected}: is gradient checkpointing on?"
    logits: torch.Tensor = out.logits
    return logits


def _new_cache(module: nn.Module) -> DynamicCache:
    return DynamicCache(config=module.config)
