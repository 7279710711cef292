"""A LoRA adapter as the launcher, the router and the workers name it.

`checkpoint/adapter.py` reads an adapter's directory into an `AdapterRef`. The launcher and the router's admin API write
it into the fleet file. The router loads it into prefill workers and names it on the prefill leg. A worker's card
reports the limits of the adapters that the worker accepts.

The name of an adapter on a worker is made of its content, so equal names are equal weights: an update of a task is
another name beside the old one, never another content under one name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from sun_sglang.contracts.scheme import Side
from sun_sglang.strict import Strict

NAME_PREFIX: Final = "sun-"
"""Beginning of the names of adapters that the router loads; it leaves all others on a worker alone."""

FINGERPRINT_FILE: Final = "fingerprint.json"
"""The file beside an adapter's weights that holds its `Fingerprint`."""

Revision = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
LOGPROBS: Final = (-1e4, 0.001)
"""The least and the highest log probability of a token: a module that computes others is broken."""

LEAST_EFFECT: Final = 1e-3
"""The rms above which an effect is one; without an adapter, a worker's log probabilities of one prompt are equal."""

_Logprob = Annotated[float, Field(ge=LOGPROBS[0], le=LOGPROBS[1])]


def rms(values: Sequence[float]) -> float:
    """Return the root mean square of values; 0 for none."""
    return math.sqrt(math.fsum(x * x for x in values) / len(values)) if values else 0.0


class Fingerprint(Strict):
    """The effect of an adapter on one fixed prompt, recorded when the adapter was made.

    Log probabilities are natural logarithms, of each prompt token but the first, given those before it.

    Attributes:
        tokens: the prompt's token ids.
        adapter: log probabilities with the adapter.
        base: log probabilities without it.
    """

    tokens: tuple[Annotated[int, Field(ge=0, lt=1 << 31)], ...] = Field(min_length=2, max_length=256)
    adapter: tuple[_Logprob, ...]
    base: tuple[_Logprob, ...]

    @model_validator(mode="after")
    def _lengths(self) -> Fingerprint:
        if not len(self.adapter) == len(self.base) == len(self.tokens) - 1:
            raise ValueError("`adapter` and `base` have one value for each token but the first")
        return self

    @property
    def effect(self) -> float:
        """Root mean square (rms) of the change in log probabilities."""
        changes = [a - b for a, b in zip(self.adapter, self.base, strict=True)]
        return rms(changes)


class AdapterRef(Strict):
    """One adapter, by its content and its place.

    Attributes:
        directory: absolute path from which prefill workers read it.
        revision: digest of its weights and of the settings that change what they compute.
        rank: the largest rank among its layers.
        target_modules: last names of the layers that it changes, sorted.
        base: revision of the base's weights (`checkpoint/weights.py`); empty where it is not recorded.
        tuned_for: revision of the decoder for which it was tuned; empty where it is not recorded.
        first_token: the side that makes the first output token in the scheme with which it was tuned.
        fingerprint: None where none was recorded.
    """

    directory: str = Field(min_length=1, max_length=4096)
    revision: Revision
    rank: int = Field(ge=1, le=65536)
    target_modules: tuple[Annotated[str, StringConstraints(max_length=128)], ...] = Field(min_length=1, max_length=256)
    base: Annotated[str, StringConstraints(max_length=256)] = ""
    tuned_for: Annotated[str, StringConstraints(max_length=256)] = ""
    first_token: Side = "prefill"
    fingerprint: Fingerprint | None = None

    def __hash__(self) -> int:
        # as a key of a mapping it is read for every request; pydantic would hash the whole fingerprint each time
        return hash(self.revision)

    @property
    def name(self) -> str:
        """Its name on a worker, which a request gives as `lora_path`."""
        return f"{NAME_PREFIX}{self.revision}"


class AdapterLimits(BaseModel):
    """The adapters that a worker accepts, as its card reports them.

    Attributes:
        max_rank: the highest rank.
        target_modules: last names of the layers that an adapter may change.
        slots: adapters that one batch may use (`max_loras_per_batch`).
        max_loaded: adapters that the worker keeps in host memory; None for no limit.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    max_rank: int = Field(ge=1, le=65536)
    target_modules: tuple[Annotated[str, StringConstraints(max_length=128)], ...] = Field(max_length=256)
    slots: int = Field(ge=1, le=65536)
    max_loaded: int | None = Field(default=None, ge=1, le=1 << 20)
