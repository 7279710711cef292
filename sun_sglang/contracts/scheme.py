"""A tuning scheme as data: which sides of a task's pair training changes, and which side makes the first output token.

A recipe and `sun.json` name it (`scheme`, `first_token`); training, evaluation and the launcher read it. No code
outside this file compares the name of a scheme. `train/objective/README.md` shows how to add one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

Side = Literal["prefill", "decode"]


@dataclass(frozen=True)
class Scheme:
    """One way to tune the pair of modules that serves a task.

    Attributes:
        trains: the sides whose weights training changes.
        one_module: both sides are one module with one set of weights.
        first_token: the side that makes the first output token. `prefill`: the prefill module, from the last logit of
            the prompt, as SGLang's workers do. `decode`: the decode module runs the last prompt token, and the prefill
            module only the tokens before it.
    """

    trains: frozenset[Side]
    one_module: bool = False
    first_token: Side = "prefill"

    def __post_init__(self) -> None:
        # one checkpoint is trained, and one `sun.json` describes it
        assert len(self.trains) == (2 if self.one_module else 1), "a scheme trains one module"

    @property
    def tuned_side(self) -> Side:
        """The side of the trained module; `prefill` where it is on both sides."""
        return "prefill" if "prefill" in self.trains else "decode"

    @property
    def trains_decoder(self) -> bool:
        """Whether the trained module itself decodes its task, so that no other decoder can."""
        return "decode" in self.trains

    @property
    def tuned_makes_first_token(self) -> bool:
        """Whether the first output token comes from the trained module."""
        return self.first_token in self.trains

    def with_first_token(self, side: Side) -> Scheme:
        """Return this scheme with the first output token from `side`."""
        return replace(self, first_token=side)


# a name here is a value of a recipe's `scheme`
SCHEMES: Mapping[str, Scheme] = MappingProxyType(
    {
        "prefill_only": Scheme(frozenset({"prefill"})),
        "decode_only": Scheme(frozenset({"decode"})),
        "full": Scheme(frozenset({"prefill", "decode"}), one_module=True),
    }
)


def _require_registered(name: str) -> str:
    if name not in SCHEMES:
        *others, last = (repr(known) for known in SCHEMES)
        raise PydanticCustomError("scheme", "Input should be {known}", {"known": f"{', '.join(others)} or {last}"})
    return name


SchemeName = Annotated[str, AfterValidator(_require_registered)]
