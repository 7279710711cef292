"""The loss of a prefill module and a decode module, computed as disaggregated serving computes the answer.

The prompt runs through the prefill module, which leaves its KV cache and, in SGLang, the first output token; the decode
module reads that cache and makes every later token (SUN, section 3.1, Eq. 2-4). Training minimises the answer's
negative log-likelihood through that same path (Eq. 6): where the decode module is frozen, gradients reach the prefill
module through the cache (Eq. 5), and through its last logit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import DynamicCache
from transformers.utils import ModelOutput

from sun_sglang.train.batch import IGNORED, positions

Scheme = Literal["prefill_only", "decode_only", "full"]
FirstToken = Literal["prefill", "decode"]


@dataclass
class TwoModuleOutput(ModelOutput):  # type: ignore[misc] # transformers is not followed, so its classes are Any
    """What a forward gives.

    Attributes:
        loss: negative log-likelihood of the answers, summed and divided by the number of answer tokens; a scalar.
        logits: [batch, answer, vocabulary]; `logits[:, t]` is the distribution of answer token `t`.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None


class TwoModule(nn.Module):
    """A prefill module and a decode module, of which the scheme says which side is trained.

    Args:
        prefill: a Hugging Face causal LM that runs the prompt.
        decode: a causal LM of the same KV layout that runs the answer; the same object under `full`.
        scheme: `prefill_only` (SUN) freezes the decode module, `decode_only` (PrefillShare) the prefill module, `full`
            trains one module on both sides.
        first_token: who makes it. `prefill`: the prefill module's last logit, as SGLang's workers do. `decode`: the
            decode module runs the last prompt token itself, and the prefill module all but that one (Eq. 6 as written).
    """

    # `num_items_in_batch` is what transformers.Trainer hands over when it accumulates gradients
    accepts_loss_kwargs = True

    def __init__(
        self, prefill: nn.Module, decode: nn.Module, scheme: Scheme, first_token: FirstToken = "prefill"
    ) -> None:
        super().__init__()
        assert (prefill is decode) == (scheme == "full"), "one module on both sides is what `full` means"
        self.prefill = prefill
        self.decode = decode
        self.scheme = scheme
        self.first_token = first_token
        prefill.requires_grad_(scheme != "decode_only")
        decode.requires_grad_(scheme != "prefill_only")

    @property
    def tuned(self) -> nn.Module:
        """The module that the scheme trains."""
        return self.decode if self.scheme == "decode_only" else self.prefill

    @property
    def leaves_parameters_unused(self) -> bool:
        """Whether trained parameters may get no gradient: those above the last KV of a side that makes no token."""
        makes_first = self.scheme == "full" or self.first_token == self.scheme.removesuffix("_only")
        return not makes_first

    def train(self, mode: bool = True) -> TwoModule:
        """Set the mode of the trained side; a frozen side always computes what serving computes."""
        super().train(mode)
        if self.scheme == "prefill_only":
            self.decode.eval()
        if self.scheme == "decode_only":
            self.prefill.eval()
        return self

    def forward(
        self,
        prompt_ids: torch.Tensor,
        prompt_mask: torch.Tensor,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> TwoModuleOutput:
        """The answers' loss and logits.

        Args:
            prompt_ids: [batch, prompt], padded on the left.
            prompt_mask: [batch, prompt], 1 where there is a token.
            labels: [batch, answer], the answers' token ids, padded on the right with -100.
            num_items_in_batch: answer tokens to divide by, where a step's batch comes in several parts; this batch's
                own number otherwise.
        """
        assert bool(prompt_mask[:, -1].all()), "prompts are padded on the left"
        answer_mask = (labels != IGNORED).long()
        handed_over = prompt_ids.shape[1] - (self.first_token == "decode")
        assert handed_over > 0, "the prefill module has nothing to run"

        ids = torch.cat([prompt_ids, labels.clamp(min=0)], dim=1)
        mask = torch.cat([prompt_mask, answer_mask], dim=1)
        prompt_logits, cache = self._run(self.prefill, ids, mask, 0, handed_over, _new_cache(self.prefill), keep=1)
        first = [prompt_logits] if self.first_token == "prefill" else []
        last = ids.shape[1] - 1
        rest = []
        if last > handed_over:
            rest = [self._run(self.decode, ids, mask, handed_over, last, cache, keep=0)[0]]
        logits = torch.cat([*first, *rest], dim=1)

        assert logits.shape[:2] == labels.shape
        total = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
        return TwoModuleOutput(
            total / (answer_mask.sum() if num_items_in_batch is None else num_items_in_batch), logits
        )

    @staticmethod
    def _run(
        module: nn.Module, ids: torch.Tensor, mask: torch.Tensor, start: int, end: int, cache: DynamicCache, keep: int
    ) -> tuple[torch.Tensor, DynamicCache]:
        """Run columns `start` to `end` on the cache of all before; logits of the last `keep`, 0 for all."""
        out: Any = module(
            input_ids=ids[:, start:end],
            attention_mask=mask[:, :end],
            position_ids=positions(mask)[:, start:end],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        # gradient checkpointing drops the cache, and the loss stays finite without it
        length = 0 if out.past_key_values is None else out.past_key_values.get_seq_length()
        assert length == end, f"the KV cache holds {length} tokens of {end}: is gradient checkpointing on?"
        return out.logits, out.past_key_values


def _new_cache(module: nn.Module) -> DynamicCache:
    return DynamicCache(config=module.config)
