"""Which workers may be members of one pool, and which may hand KV to which. Pure."""

from __future__ import annotations

from typing import NamedTuple

from sun_sglang.checkpoint.tuning import is_tuned_for
from sun_sglang.contracts.kv_compatibility import Difference, member_difference, pair_difference
from sun_sglang.contracts.worker_card import WorkerCard


class Party(NamedTuple):
    """A worker as it is compared with another.

    Attributes:
        name: of the worker.
        pool: that it belongs to.
        card: what it says of itself.
    """

    name: str
    pool: str
    card: WorkerCard


def objection(ours: Party, theirs: Party) -> str:
    """Return why a worker may not be in one pool with another, or hand KV to it or take KV from it; empty if it may."""
    difference = _difference(ours, theirs)
    if difference is None:
        return ""
    return difference.sentence(ours.name, theirs.name, verb=f"differs from `{theirs.name}`'s")


def decoder_objection(prefill: Party, decode: Party) -> str:
    """Return why a module may not prefill for a decoder unless the task takes any; empty if it may."""
    tuned_for, decoder = prefill.card.tuned_for, decode.card.identity.decoder or decode.card.identity.weights
    if is_tuned_for(tuned_for, decoder):
        return ""
    return (
        f"`{prefill.name}` was tuned to be decoded by weights {tuned_for}, and `{decode.name}` has weights {decoder}; "
        "`any_decoder: true` on the task serves it all the same"
    )


def _difference(ours: Party, theirs: Party) -> Difference | None:
    """Return the first difference between two workers that have to agree, ours and theirs in this order."""
    own, other = ours.card, theirs.card
    if ours.pool == theirs.pool:
        found = member_difference(own.identity, other.identity)
        flags = Difference("module_flags", own.module_flags, other.module_flags)
        return found or (flags if flags.left != flags.right else None)
    if own.role == "prefill":
        return pair_difference(own.identity, other.identity)
    found = pair_difference(other.identity, own.identity)
    return None if found is None else found._replace(left=found.right, right=found.left)
