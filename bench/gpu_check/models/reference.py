"""The expected answers: transformers runs one module over the prompt and another one over the answer.

Ties: bfloat16 changes every logit, and a worker's kernels change it differently than transformers' kernels do. The
reference therefore runs in float32 and again in the workers' dtype; the root mean square of the difference, over the
vocabulary, is the noise of one token's logits. A served token is right if the float32 reference puts it no further than
five times this noise below its best token. The answer's own tokens are fed back, so every token is judged, also after a
tie. On random models this accepts the tokens of transformers in bfloat16 and rejects those of a wrong module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from sun_sglang.bench.gpu_check.errors import CheckError

# logits of float32 sums in another order differ in the sixth digit
_LEAST_NOISE = 2e-4
_ALLOWED = 5.0


class Judgement(NamedTuple):
    """The comparison of an answer with the reference.

    Attributes:
        tokens: how many tokens it has.
        ties: tokens that are not the reference's best and lie within the noise.
        wrong: index of the first token that is neither; None if there is none.
        noise: largest noise of a token's logits.
        gap: how far the wrong token lies below the best one, in units of its noise; 0 if none is wrong.
    """

    tokens: int
    ties: int
    wrong: int | None
    noise: float
    gap: float


@dataclass(frozen=True)
class Reference:
    """A prefill and a decode module.

    Attributes:
        prefill: directory of the module that runs the prompt.
        decode: directory of the module that continues.
        device: where transformers runs.
        dtype: the workers' dtype.
        stepwise: feed the answer back token by token; for models whose state takes one token at a time.
    """

    prefill: Path
    decode: Path
    device: str
    dtype: str
    stepwise: bool = False

    def judge(self, prompt: Sequence[int], answer: Sequence[int]) -> Judgement:
        """Compare a greedy answer, never ended early, with the reference.

        Args:
            prompt: token ids.
            answer: token ids.
        """
        exact = self._logits(prompt, answer, "float32")
        served = exact if self.dtype == "float32" else self._logits(prompt, answer, self.dtype)
        noise = (exact - served).square().mean(dim=-1).sqrt().clamp(min=_LEAST_NOISE).tolist()
        best = exact.max(dim=-1).values.tolist()
        gaps = [best[i] - float(exact[i, token]) for i, token in enumerate(answer)]
        ratios = [gap / n for gap, n in zip(gaps, noise, strict=True)]
        wrong = next((i for i, ratio in enumerate(ratios) if ratio > _ALLOWED), None)
        ties = sum(0 < ratio <= _ALLOWED for ratio in ratios)
        return Judgement(len(answer), ties, wrong, max(noise), 0.0 if wrong is None else ratios[wrong])

    def _logits(self, prompt: Sequence[int], answer: Sequence[int], dtype: str) -> Any:
        """Return the logits before each token of the answer: float32, tokens x vocabulary."""
        import torch
        from transformers import DynamicCache

        prefill, decode = (_load(path, self.device, dtype) for path in (self.prefill, self.decode))
        cache = DynamicCache(config=prefill.config)
        rows = []
        with torch.inference_mode():
            ids = torch.tensor([list(prompt)], device=self.device)
            rows.append(prefill(input_ids=ids, past_key_values=cache, logits_to_keep=1).logits[0])
            fed = list(answer[:-1])
            pieces = [[token] for token in fed] if self.stepwise else [fed] if fed else []
            for piece in pieces:
                ids = torch.tensor([piece], device=self.device)
                rows += [decode(input_ids=ids, past_key_values=cache).logits[0]]
        return torch.cat(rows).float()


@dataclass
class AnswerChecker:
    """Judges answers by one reference, and counts the judgements.

    Attributes:
        reference: the reference.
        answers: right answers so far.
        tokens: their tokens.
        ties: tokens within the noise.
        noise: largest noise of a token's logits.
    """

    reference: Reference
    answers: int = 0
    tokens: int = 0
    ties: int = 0
    noise: float = 0.0

    def check(self, prompt: Sequence[int], answer: Sequence[int], what: str) -> None:
        """Judge an answer and count it.

        Args:
            prompt: token ids.
            answer: token ids.
            what: names the answer in the error.

        Raises:
            CheckError: a token is wrong.
        """
        judgement = self.reference.judge(prompt, answer)
        if judgement.wrong is not None:
            raise CheckError(
                f"{what}: token {judgement.wrong} of {len(answer)} is wrong: its logit lies {judgement.gap:.3g} times "
                f"the dtype's noise below the best one, and {_ALLOWED:g} is allowed (prompt of {len(prompt)} tokens)"
            )
        self.answers += 1
        self.tokens += judgement.tokens
        self.ties += judgement.ties
        self.noise = max(self.noise, judgement.noise)

    def counts(self) -> dict[str, Any]:
        """Return the counts, as JSON values."""
        return {"answers": self.answers, "tokens": self.tokens, "ties": self.ties, "logit_noise": round(self.noise, 5)}


@lru_cache(maxsize=16)
def _load(path: Path, device: str, dtype: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype), attn_implementation="eager")
    return model.to(device).eval()
