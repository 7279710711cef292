"""What a data set trains, as text: the first examples with their loss, and its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sun_sglang.train.data.dataset import Examples
from sun_sglang.train.data.report import DataReport


@dataclass(frozen=True)
class PreviewedExample:
    """An example as text, decoded from its token ids.

    Attributes:
        at: place of its row.
        prompt: the text without a loss.
        loss: the text with a loss, with its end token.
        prompt_tokens: tokens of the prompt.
        loss_tokens: tokens with a loss.
    """

    at: str
    prompt: str
    loss: str
    prompt_tokens: int
    loss_tokens: int


@dataclass(frozen=True)
class DataPreview:
    """A data set before it is trained on.

    Attributes:
        examples: the first examples.
        loss_share: share of the training tokens that have a loss.
        report: what became of the rows.
    """

    examples: tuple[PreviewedExample, ...]
    loss_share: float
    report: DataReport

    def as_json(self) -> dict[str, Any]:
        """Return the preview as JSON values."""
        report = self.report
        return {
            "format": report.format,
            "loss_share": round(self.loss_share, 4),
            "longest": {"tokens": report.longest, "at": report.longest_at},
            "left_out": [{"reason": f.text, "examples": f.count, "first": f.first} for f in report.left_out],
            "notes": [f.describe() for f in report.notes],
            "first_examples": [vars(example) for example in self.examples],
        }


def preview_of(examples: Examples, tokenizer: Any) -> DataPreview:
    """Return the preview of loaded examples.

    Args:
        examples: the examples.
        tokenizer: the tokenizer that made them.
    """
    prompts, losses = (sum(len(getattr(e, part)) for e in examples.train) for part in ("prompt", "answer"))
    shown = tuple(
        PreviewedExample(e.where, _text(tokenizer, e.prompt), _text(tokenizer, e.answer), len(e.prompt), len(e.answer))
        for e in examples.report.first
    )
    return DataPreview(shown, losses / (prompts + losses), examples.report)


def _text(tokenizer: Any, ids: tuple[int, ...]) -> str:
    text: str = tokenizer.decode(list(ids), skip_special_tokens=False)
    return text
