"""In what two workers have to agree before one may hand KV to the other, or both may be in one pool. Pure."""

from __future__ import annotations

from typing import NamedTuple

from sun_sglang.checkpoint.identity import Identity
from sun_sglang.errors import IdentityError

# fields that may differ between the two sides of a transfer
_OWN = ("weights", "decoder", "any_tp")
# what to do about a difference that its values do not explain
_HINTS = {
    "kv_cache_dtype": "SGLang compares the flag as it is written, so give both the same `kv_cache_dtype`",
    "chat_template": "set `chat_template` of `engine` for both",
    "kv_scales": "8-bit KV is wrong for a side that scales it otherwise; use equal scales on both, or 16-bit KV",
}


class Difference(NamedTuple):
    """The first field in which two identities differ, and what to do about it where the values do not say it."""

    field: str
    left: object
    right: object
    hint: str = ""

    def told(self, left: str, right: str, *, verb: str = "differs") -> str:
        """Return the difference as a sentence.

        Args:
            left: name of the left side.
            right: name of the right side.
            verb: what the field does.
        """
        sides = f"{left}: {_shown(self.left)}, {right}: {_shown(self.right)}"
        return f"{self.field} {verb} ({sides})" + (f"; {self.hint}" if self.hint else "")


def _shown(value: object) -> str:
    return str(value) or "none"


def pair_difference(prefill: Identity, decode: Identity) -> Difference | None:
    """Return the first field, in declaration order, that keeps a prefill side from handing KV to a decode side."""
    for field in Identity.model_fields:
        if field in _OWN:
            continue
        a, b = getattr(prefill, field), getattr(decode, field)
        if a != b and (hint := _hint(field, prefill, decode)) is not None:
            return Difference(field, a, b, hint)
    return None


def member_difference(one: Identity, other: Identity) -> Difference | None:
    """Return the first field in which two workers of one pool differ."""
    for field in Identity.model_fields:
        a, b = getattr(one, field), getattr(other, field)
        if a != b and not _is_open(field, a, b):
            return Difference(field, a, b)
    return None


def _is_open(field: str, a: object, b: object) -> bool:
    """Return whether SGLang decides the field at the start of one of the two workers."""
    return field == "page_size" and 0 in (a, b)


def _hint(field: str, prefill: Identity, decode: Identity) -> str | None:
    """Return what to do about a difference; None where SGLang transfers KV in spite of it."""
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
    """Raise unless two identities can be paired.

    Args:
        left: identity of the prefill side.
        right: identity of the decode side.
        names: what to call the two sides in the message.
        where: the YAML path, or the worker, that brought them together.

    Raises:
        IdentityError: names the first difference, with both values.
    """
    difference = pair_difference(left, right)
    if difference is None:
        return
    raise IdentityError(f"{where}: `{names[0]}` and `{names[1]}` cannot share KV: {difference.told(*names)}")
