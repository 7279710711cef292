"""The fields in which two workers must be equal before one sends KV to the other, or before both join one pool. Pure.

SGLang compares neither architecture nor tokenizer nor chat template of the two sides, and a difference in page size or
KV dtype ends the decode server (`disaggregation/common/conn.py`). So all of it is compared before anything starts, from
the checkpoints (`launch/planning/preflight.py`), and at registration, from the cards
(`router/workers/compatibility.py`).
"""

from __future__ import annotations

from typing import NamedTuple

from sun_sglang.contracts.worker_card import Identity
from sun_sglang.errors import IdentityError

# Fields that may differ between the two sides of a transfer.
_OWN = ("weights", "decoder", "any_tp")
# The fix for a difference that its values do not explain.
_HINTS = {
    "kv_cache_dtype": "SGLang compares the flag as it is written, so give both the same `kv_cache_dtype`",
    "chat_template": "set `chat_template` of `engine` for both",
    "kv_scales": "8-bit KV is wrong for a side that scales it otherwise; use equal scales on both, or 16-bit KV",
}


class Difference(NamedTuple):
    """The first field in which two identities differ.

    Attributes:
        field: name of the field.
        left: its value on the left side.
        right: its value on the right side.
        hint: the fix, where the two values do not show it; else empty.
    """

    field: str
    left: object
    right: object
    hint: str = ""

    def sentence(self, left: str, right: str, *, verb: str = "differs") -> str:
        """Return the difference as a sentence.

        Args:
            left: name of the left side.
            right: name of the right side.
            verb: the verb of the sentence.
        """
        sides = f"{left}: {_shown(self.left)}, {right}: {_shown(self.right)}"
        return f"{self.field} {verb} ({sides})" + (f"; {self.hint}" if self.hint else "")


def _shown(value: object) -> str:
    return str(value) or "none"


def pair_difference(prefill: Identity, decode: Identity) -> Difference | None:
    """Return the first field, in declaration order, whose difference forbids a KV transfer; None if there is none."""
    for field in Identity.model_fields:
        if field in _OWN:
            continue
        a, b = getattr(prefill, field), getattr(decode, field)
        if a != b and (hint := _hint(field, prefill, decode)) is not None:
            return Difference(field, a, b, hint)
    return None


def member_difference(one: Identity, other: Identity) -> Difference | None:
    """Return the first field in which two workers of one pool differ; None if there is none."""
    for field in Identity.model_fields:
        a, b = getattr(one, field), getattr(other, field)
        if a != b and not _is_open(field, a, b):
            return Difference(field, a, b)
    return None


def _is_open(field: str, a: object, b: object) -> bool:
    """Return whether SGLang decides the field at the start of one of the two workers."""
    return field == "page_size" and 0 in (a, b)


def _hint(field: str, prefill: Identity, decode: Identity) -> str | None:
    """Return the fix for a difference; None where SGLang transfers KV in spite of it."""
    if _is_open(field, getattr(prefill, field), getattr(decode, field)):
        return None
    if field == "tp_size":
        sizes = sorted((prefill.tp_size, decode.tp_size))
        if not (prefill.any_tp and decode.any_tp):
            return "SGLang moves KV between workers with other `tp_size` for plain full attention and MLA alone"
        return "one of the two must be a multiple of the other" if sizes[1] % sizes[0] else None
    if field == "pp_size":
        return "the decode side has as many pipeline ranks, or one" if decode.pp_size != 1 else None
    return _HINTS.get(field, "")


def require_same(left: Identity, right: Identity, *, names: tuple[str, str], where: str) -> None:
    """Raise unless the two identities can be paired.

    Args:
        left: identity of the prefill side.
        right: identity of the decode side.
        names: names of the two sides for the message.
        where: the YAML path or the worker for which the pair is checked.

    Raises:
        IdentityError: names the first difference, with both values.
    """
    difference = pair_difference(left, right)
    if difference is None:
        return
    raise IdentityError(f"{where}: `{names[0]}` and `{names[1]}` cannot share KV: {difference.sentence(*names)}")
