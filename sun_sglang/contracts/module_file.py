"""`sun.json`: the file beside tuned weights that records how they were tuned and which decoder they need.

Written by training (`train/sweep.py`, `demo/make.py`); read by the launcher, evaluation, and
workers for their card.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from sun_sglang.contracts.scheme import SCHEMES, Scheme, SchemeName, Side
from sun_sglang.errors import CheckpointError
from sun_sglang.strict import first_invalid

MODULE_FILE = "sun.json"


class ModuleFile(BaseModel):
    """The content of `sun.json`. Serving needs `base`, `decoder` and `first_token`; another trainer may omit the rest.

    Attributes:
        scheme: name of the scheme.
        base: revision of the weights that tuning started from.
        decoder: revision of the weights that must decode for this module.
        first_token: the side that makes the first output token.
        command: the command that made the weights.
        seed: seed of data and order.
        learning_rate: the learning rate with the least validation loss.
        recipe: the training recipe, without paths of one machine.
    """

    # a later version may add keys
    model_config = ConfigDict(frozen=True, extra="ignore")

    scheme: SchemeName | None = None
    base: str
    decoder: str
    first_token: Side
    command: str | None = None
    seed: int | None = None
    learning_rate: float | None = None
    recipe: dict[str, Any] | None = None

    @property
    def tuning_scheme(self) -> Scheme | None:
        """The scheme as data; None where the file does not name one."""
        return None if self.scheme is None else SCHEMES[self.scheme].with_first_token(self.first_token)


def write_module_file(content: ModuleFile, checkpoint: Path) -> None:
    """Write `sun.json` into the directory of a checkpoint."""
    text = json.dumps(content.model_dump(mode="json", exclude_none=True), indent=2)
    (checkpoint / MODULE_FILE).write_text(text + "\n", encoding="utf-8")


def read_module_file(checkpoint: Path) -> ModuleFile | None:
    """Return the content of a checkpoint's `sun.json`; None if the checkpoint has none.

    Raises:
        CheckpointError: the file cannot be read, or a field is missing or wrong.
    """
    file = checkpoint / MODULE_FILE
    if not file.exists():
        return None
    try:
        return ModuleFile.model_validate(json.loads(file.read_text(encoding="utf-8")))
    except ValidationError as e:
        raise CheckpointError(f"{file}: {first_invalid(e, ModuleFile).describe('its content')}") from e
    except (OSError, ValueError) as e:
        raise CheckpointError(f"{file}: cannot be read ({e})") from e
