"""The recipes of the table's tunings. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

BASE = "base"
"""Name of the decoder in 16 bits."""
FULL = "full"
SUN = "prefill_only"
EXAMPLES: Mapping[str, int] = MappingProxyType({"math": 640, "tool": 240})


class Tuning(NamedTuple):
    """One tuning of a module.

    Attributes:
        task: key of `bench/smollm2/data.py`'s tasks.
        seed: seed of data and order.
        scheme: `full`, or `prefill_only` for SUN.
        retuned_for: name of the frozen decoder of a further tuning, which starts from SUN's module; None for the
            first tuning, which starts from the base and, for SUN, has the base as decoder.
    """

    task: str
    seed: int
    scheme: str
    retuned_for: str | None = None

    @property
    def first(self) -> Tuning:
        """The tuning that made the module to start from."""
        return self._replace(retuned_for=None)

    @property
    def name(self) -> str:
        """The name of its folder and files."""
        again = "" if self.retuned_for is None else f"-for-{self.retuned_for}"
        return f"{self.task}-seed{self.seed}-{self.scheme}{again}"


@dataclass(frozen=True)
class Setting:
    """The size of the experiment. The committed results were made with the defaults.

    Attributes:
        examples: training examples of each task; a first tuning is one epoch over them.
        again: epochs of a further tuning.
        validation: examples of the validation loss.
        questions: test questions of a task.
        batch: examples a step.
        rates: learning rates of every tuning; the one with the least validation loss is kept.
        rank: rank of the LoRA, which is merged after the tuning; its `alpha` is twice as much.
        packing: most tokens of a packed row of examples.
        seed: seed of data and order.
    """

    examples: Mapping[str, int]
    again: float = 0.5
    validation: int = 48
    questions: int = 250
    batch: int = 4
    rates: tuple[float, ...] = (1e-3,)
    rank: int = 16
    packing: int = 512
    seed: int = 0


def recipe_of(tuning: Tuning, setting: Setting) -> dict[str, Any]:
    """Return the recipe of a tuning, without paths."""
    return {
        "scheme": tuning.scheme,
        "learning_rates": list(setting.rates),
        "global_batch": setting.batch,
        "micro_batch": setting.batch,
        "packing_tokens": setting.packing,
        "epochs": 1.0 if tuning.retuned_for is None else setting.again,
        "bf16": True,
        "save_steps": 40,
        "seed": tuning.seed,
        "lora": {"rank": setting.rank, "alpha": 2 * setting.rank},
        "data": {"messages": "messages", "response": "answer", "max_length": 256},
    }


def with_paths(
    recipe: Mapping[str, Any], *, base: Path, decoder: Path | None, output: Path, train: Path, validation: Path
) -> dict[str, Any]:
    """Return a recipe with its files.

    Args:
        recipe: from `recipe_of`.
        base: the model to start from.
        decoder: the frozen decoder, where it is another one.
        output: where the tuned module goes.
        train: the examples.
        validation: the examples of the validation loss.
    """
    data = {**recipe["data"], "file": str(train.resolve()), "validation_file": str(validation.resolve())}
    models = {"base": str(base.resolve())} | ({} if decoder is None else {"decoder": str(decoder.resolve())})
    return {**recipe, **models, "output": str(output.resolve()), "data": data}
