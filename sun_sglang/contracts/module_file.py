"""`sun.json`: the file beside tuned weights that records how they were tuned and which decoder they need.

Written by training (`train/sweep.py`, `demo/make.py`) and read by evaluation (`cli/eval.py`). The launcher, and workers
for their card, read the fields of `ServedModule` alone.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from sun_sglang.contracts.scheme import SCHEMES, Scheme, SchemeName, Side
from sun_sglang.errors import CheckpointError
from sun_sglang.strict import first_invalid

MODULE_FILE = "sun.json"


def _known_scheme(name: Any) -> str | None:
    return name if isinstance(name, str) and name in SCHEMES else None


class ServedModule(BaseModel):
    """The fields of `sun.json` that serving needs; another trainer or a later version may write any others.

    Attributes:
        base: revision of the weights that tuning started from.
        decoder: revision of the weights that must decode for this module.
        first_token: the side that makes the first output token.
        scheme: name of the scheme; None where the file names none that is known.
    """

    # a later version may add keys
    model_config = ConfigDict(frozen=True, extra="ignore")

    base: str
    decoder: str
    first_token: Side
    scheme: Annotated[str | None, BeforeValidator(_known_scheme)] = None

    def tuned_on(self, weights: str, decoder: str) -> str:
        """Return the revision of the prefill weights on whose KV these weights were tuned; empty if on none.

        A decode module was tuned on the KV of the weights that it started from, and one module for both sides on its
        own. Where the scheme is not known, weights that decode their own task and make its first token count as the
        former.

        Args:
            weights: revision of these weights.
            decoder: the same as a decoder.
        """
        scheme = SCHEMES.get(self.scheme or "")
        if scheme is None:
            return self.base if self.first_token == "decode" and self.decoder == decoder else ""
        if not scheme.trains_decoder:
            return ""
        return weights if scheme.one_module else self.base


class ModuleFile(ServedModule):
    """The content of `sun.json`. Another trainer may omit the fields that serving does not need.

    Attributes:
        command: the command that made the weights.
        seed: seed of data and order.
        learning_rate: the learning rate with the least validation loss.
        recipe: the training recipe, without paths of one machine.
    """

    scheme: SchemeName | None = None
    command: str | None = None
    seed: int | None = None
    learning_rate: float | None = None
    recipe: dict[str, Any] | None = None

    @property
    def tuning_scheme(self) -> Scheme | None:
        """The scheme as data; None where the file does not name one."""
        return None if self.scheme is None else SCHEMES[self.scheme].with_first_token(self.first_token)


_Content = TypeVar("_Content", bound=ServedModule)


def write_module_file(content: ModuleFile, checkpoint: Path) -> None:
    """Write `sun.json` into the directory of a checkpoint."""
    text = json.dumps(content.model_dump(mode="json", exclude_none=True), indent=2)
    (checkpoint / MODULE_FILE).write_text(text + "\n", encoding="utf-8")


def read_module_file(checkpoint: Path) -> ModuleFile | None:
    """Return the content of a checkpoint's `sun.json`; None if the checkpoint has none.

    Raises:
        CheckpointError: the file cannot be read, or a field is missing or wrong.
    """
    return _read(checkpoint, ModuleFile)


def read_served_module(checkpoint: Path) -> ServedModule | None:
    """Return the fields of a checkpoint's `sun.json` that serving needs; None if the checkpoint has none.

    Raises:
        CheckpointError: the file cannot be read, or one of these fields is missing or wrong.
    """
    return _read(checkpoint, ServedModule)


def _read(checkpoint: Path, model: type[_Content]) -> _Content | None:
    file = checkpoint / MODULE_FILE
    # a link to nothing is a record that is lost, and not none
    if not os.path.lexists(file):
        return None
    try:
        return model.model_validate(json.loads(file.read_text(encoding="utf-8")))
    except ValidationError as e:
        raise CheckpointError(f"{file}: {first_invalid(e, model).describe('its content')}") from e
    except (OSError, ValueError, RecursionError) as e:
        raise CheckpointError(f"{file}: cannot be read ({e})") from e
