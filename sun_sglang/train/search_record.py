"""The record of a search over learning rates: losses in `search.json`, and the weights of the best rate beside it.

Weights have the rate in their name. They are written before the losses that make them the best, and the weights of the
rate before are removed after: a kill between any two steps leaves losses and weights that fit each other.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import save_file

from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.errors import RecipeError
from sun_sglang.files.replace_file import replace_file
from sun_sglang.train.data.dataset import Examples
from sun_sglang.train.objective.two_module_loss import TwoModule
from sun_sglang.train.rate_search import RateSearch
from sun_sglang.train.recipe import Recipe
from sun_sglang.train.trainer.divergence import not_finite
from sun_sglang.train.trainer.launched_processes import is_first_process, wait_for_all
from sun_sglang.train.trainer.trained_state import trained_state

# where a run reads and writes is no part of what it computes
_PLACES = {"base": True, "decoder": True, "output": True, "chat_template": True, "report_to": True}
_MODEL_FILES = ("config.json", "sun.json", "adapter", "adapter_config.json")
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
_DATA_PLACES = {"file", "validation_file"}


class Subject(NamedTuple):
    """The content that a search computes with, without paths: a run may move to another directory with its files.

    Attributes:
        recipe: the recipe's settings.
        base: revision of the base's weights.
        decoder: revision of the frozen decode module's weights.
        examples: SHA-256 of the token ids of all examples: of data, tokenizer, template and split.
    """

    recipe: dict[str, Any]
    base: str
    decoder: str
    examples: str

    @classmethod
    def of(cls, recipe: Recipe, base: Path, decoder: Path, examples: Examples) -> Subject:
        """Return the subject of a prepared recipe.

        Args:
            recipe: the recipe.
            base: directory of the base.
            decoder: directory of the frozen decode module.
            examples: the encoded examples.
        """
        settings = recipe.model_dump(mode="json", exclude={**_PLACES, "data": _DATA_PLACES})
        revision = weights_revision(base)
        return cls(settings, revision, revision if decoder == base else weights_revision(decoder), _digest(examples))

    def difference(self, recorded: Mapping[str, Any]) -> str | None:
        """Return what differs from a recorded subject; None if it is the same."""
        if recorded.get("recipe") != self.recipe:
            old = recorded.get("recipe")
            keys = [key for key, value in self.recipe.items() if not isinstance(old, dict) or old.get(key) != value]
            return f"belongs to another recipe (`{keys[0]}` differs)" if keys else "belongs to another recipe"
        for key, what in (("base", "base"), ("decoder", "decode module"), ("examples", "data")):
            if recorded.get(key) != getattr(self, key):
                date = " (a chat template that writes the date changes it each day)" if key == "examples" else ""
                return f"was begun with another {what}, whose content differs{date}"
        return None


class SearchRecord:
    """The record in a directory. `open` reads or creates it.

    Args:
        work: the directory.
        subject: what the search computes with.
    """

    def __init__(self, work: Path, subject: Subject) -> None:
        self._work = work
        self._file = work / "search.json"
        self.subject = subject
        self.rates = RateSearch()

    @property
    def weights(self) -> Path:
        """The file of the best rate's weights."""
        return self._weights_of(self.rates.best)

    def directory(self, rate: float) -> Path:
        """Return the directory for the checkpoints of a rate."""
        return self._work / str(rate)

    def open(self, resume: bool) -> None:
        """Read the record that is there, or create one.

        Args:
            resume: continue the search that is there.

        Raises:
            RecipeError: there is a search and `resume` is false, it computes with other content, or it lacks the
                weights of its best rate; or there is a model and no search that made it.
        """
        there = self._file.exists()
        model = None if there or not is_first_process() else _model_file(self._work.parent)
        if model is not None:
            raise RecipeError(
                f"output: {self._work.parent} holds `{model}` of a model, and no training/search.json of a training "
                "that made it; choose another directory"
            )
        # without --resume only the first process checks: it writes the file while other processes still start
        if there and not resume and is_first_process():
            raise RecipeError(
                f"output: {self._work.parent} contains a training already; continue it with --resume, or choose another"
            )
        if there and resume:
            self._read()
        if is_first_process():
            self._work.mkdir(parents=True, exist_ok=True)
            self._write()
            self._remove_others()

    def add(self, rate: float, loss: float, module: TwoModule) -> float:
        """Record the validation loss of a rate, and keep the weights if they are the best.

        Args:
            rate: the learning rate.
            loss: its validation loss; not finite if training diverged.
            module: the modules after tuning.

        Returns:
            The loss; NaN if a weight is not finite.
        """
        # in every process: gathering a sharded parameter needs all of them
        state = trained_state(module) if self.rates.add(rate, loss) else None
        if state is not None and not_finite(state) is not None:
            state, loss = None, math.nan
            self.rates.add(rate, loss)
        if is_first_process():
            if state is not None:
                kept = state
                replace_file(self._weights_of(rate), lambda new: save_file(kept, new))
            self._write()
            self._remove_others()
            for checkpoint in self.directory(rate).glob("checkpoint-*"):
                shutil.rmtree(checkpoint)
        # the other processes read the best weights at the end
        wait_for_all()
        return loss

    def _read(self) -> None:
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
            losses = {float(rate): math.nan if loss is None else float(loss) for rate, loss in found["losses"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            raise RecipeError(f"output: {self._file} cannot be read ({e}); choose another output") from e
        difference = self.subject.difference(found)
        if difference is not None:
            raise RecipeError(f"output: {self._work} {difference}; choose another output, or remove the directory")
        self.rates = RateSearch(losses)
        if self.rates.has_best and not self.weights.exists():
            raise RecipeError(
                f"output: {self.weights}: not found, and {self._file.name} records that rate as the best; remove the "
                "directory, or choose another output"
            )

    def _weights_of(self, rate: float) -> Path:
        return self._work / f"best-{rate}.safetensors"

    def _remove_others(self) -> None:
        """Remove the weights of rates that are not the best."""
        best = self.weights if self.rates.has_best else None
        for file in self._work.glob("best-*.safetensors*"):
            if file != best:
                file.unlink()

    def _write(self) -> None:
        losses = {str(rate): loss if math.isfinite(loss) else None for rate, loss in self.rates.losses.items()}
        text = json.dumps({**self.subject._asdict(), "losses": losses}, indent=2, allow_nan=False) + "\n"
        replace_file(self._file, lambda new: new.write_text(text, encoding="utf-8"))


def _model_file(directory: Path) -> str | None:
    """Return the name of a file of a model, which a training would overwrite; None if there is none."""
    there = sorted(directory.iterdir()) if directory.is_dir() else []
    return next((path.name for path in there if path.name in _MODEL_FILES or path.suffix in _WEIGHTS), None)


def _digest(examples: Examples) -> str:
    digest = hashlib.sha256()
    for part in (examples.train, examples.validation):
        digest.update(len(part).to_bytes(8, "little"))
        for example in part:
            for ids in (example.prompt, example.answer):
                digest.update(len(ids).to_bytes(8, "little"))
                digest.update(array("q", ids).tobytes())
    return digest.hexdigest()
