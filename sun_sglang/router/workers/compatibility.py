"""Rules: which card a pool accepts, which workers may join one pool, and which may send KV to which. Pure.

Each function returns the reason against it as a sentence, or an empty string.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from sun_sglang.checkpoint.tuning import is_tuned_for
from sun_sglang.contracts import replay
from sun_sglang.contracts.first_token import HOOK, first_token_side
from sun_sglang.contracts.kv_compatibility import Difference, member_difference, pair_difference
from sun_sglang.contracts.module import TaskWeights
from sun_sglang.contracts.scheme import Side
from sun_sglang.contracts.worker_card import WorkerCard
from sun_sglang.router.task_weights.kind import Kind, kind_of


class WeightsTuning(NamedTuple):
    """How a task's own weights were tuned, as far as it decides which decoder may follow. Equal for most of a pool.

    Attributes:
        tuned_for: revision of the decoder; empty where it is not recorded.
        first_token: the side that made the first token in the tuning.
        kind: of the weights.
    """

    tuned_for: str
    first_token: Side
    kind: Kind = "adapter"

    @classmethod
    def of(cls, weights: TaskWeights | None) -> WeightsTuning | None:
        """Return how weights were tuned; None for a task without weights of its own."""
        return None if weights is None else cls(weights.tuned_for, weights.first_token, kind_of(weights))

    @property
    def decides(self) -> bool:
        """Whether this tuning counts in place of that of the pool's model.

        An adapter that records no decoder was not tuned by this project, so the model under it decides. Nothing of the
        pool's model is left under a module.
        """
        return self.kind == "module" or bool(self.tuned_for)


class NamedCard(NamedTuple):
    """A worker's card with the names that an error message needs.

    Attributes:
        name: name of the worker.
        pool: name of its pool.
        card: the card that the worker served.
    """

    name: str
    pool: str
    card: WorkerCard


def card_fault(worker: NamedCard, role: str) -> str:
    """Return why a pool of this role refuses a card by the card alone; empty if it accepts the card."""
    card = worker.card
    if card.role != role:
        return f"it is a {card.role} worker, and pool `{worker.pool}` is a {role} pool"
    if card.role == "prefill" and card.bootstrap_port is None:
        return "its card has no bootstrap port, which a prefill worker must announce"
    for hook in card.patches:
        if hook.state != "applied":
            detail = f": {hook.detail}" if hook.detail else ""
            return f"hook `{hook.name}` on {hook.target} is {hook.state}{detail}"
    return ""


def admission_fault(worker: NamedCard, role: str, peers: Iterable[NamedCard]) -> str:
    """Return why a worker is refused; empty if it is admitted.

    Args:
        worker: the worker.
        role: the role of its pool.
        peers: admitted workers of its pool, and of the pools that a task combines with it.
    """
    return card_fault(worker, role) or next(filter(None, (mismatch(worker, peer) for peer in peers)), "")


def mismatch(one: NamedCard, other: NamedCard) -> str:
    """Return why two workers may neither share a pool nor transfer KV between their pools; empty if they may."""
    difference = _difference(one, other)
    if difference is None:
        return ""
    return difference.sentence(one.name, other.name, verb=f"differs from `{other.name}`'s")


def pair_first_token(prefill: WorkerCard, decode: WorkerCard, tuning: WeightsTuning | None) -> Side:
    """Return the side that makes the first token of a pair.

    Args:
        prefill: card of the prefill worker.
        decode: card of the decode worker.
        tuning: of the task's own weights on the prefill worker; None without any.
    """
    deciding = tuning if tuning is not None and tuning.decides else prefill
    return first_token_side(
        tuned_for=deciding.tuned_for,
        decoder=decode.decoder,
        of_prefill=deciding.first_token,
        of_decode=decode.first_token,
    )


def first_token_mismatch(prefill: NamedCard, decode: NamedCard, tuning: WeightsTuning | None = None) -> str:
    """Return why two workers cannot serve with a first token from the decode module; empty if they can, or need not."""
    if pair_first_token(prefill.card, decode.card, tuning) == "prefill":
        return ""
    for worker in (prefill, decode):
        if not worker.card.has_hook(HOOK):
            return (
                f"the decode module makes the first token for `{prefill.name}` and `{decode.name}`, and "
                f"`{worker.name}` has no hook `{HOOK}`; start it with this version of sun-sglang"
            )
    return ""


def reads_replays(card: WorkerCard) -> bool:
    """Return whether a worker reads the mark of `contracts/replay.py`."""
    return card.has_hook(replay.HOOK)


def decoder_mismatch(prefill: NamedCard, decode: NamedCard, tuning: WeightsTuning | None = None) -> str:
    """Return why a prefill module may not serve with a decoder, unless its task has `any_decoder`; empty if it may.

    Args:
        prefill: the prefill worker.
        decode: the decode worker.
        tuning: of the task's own weights, which change the module; None without any.
    """
    tuned_for, decoder = prefill.card.tuned_for, decode.card.decoder
    module = f"`{prefill.name}`"
    if tuning is not None and tuning.decides:
        tuned_for, module = tuning.tuned_for, f"the task's {tuning.kind} on `{prefill.name}`"
    anyway = "`any_decoder: true` on the task serves it all the same"
    if not is_tuned_for(tuned_for, decoder):
        return (
            f"{module} was tuned to be decoded by weights {tuned_for}, and `{decode.name}` has weights {decoder}; "
            f"{anyway}"
        )
    tuned_on, weights = decode.card.tuned_on, prefill.card.identity.weights
    if tuned_on and tuning is not None:
        return (
            f"`{decode.name}` was tuned on prompts that weights {tuned_on} prefill, and the task's {tuning.kind} on "
            f"`{prefill.name}` changes the weights; {anyway}"
        )
    if tuned_on and weights != tuned_on:
        return (
            f"`{decode.name}` was tuned on prompts that weights {tuned_on} prefill, and `{prefill.name}` has weights "
            f"{weights}; {anyway}"
        )
    return ""


def _card_differences(left: WorkerCard, right: WorkerCard) -> Iterator[Difference]:
    """Yield the other fields in which two workers of one pool may not differ, such as those of `sun.json`."""
    for field in ("module_flags", "first_token", "tuned_for", "tuned_on"):
        a, b = getattr(left, field), getattr(right, field)
        if a != b:
            yield Difference(field, a, b)


def _difference(one: NamedCard, other: NamedCard) -> Difference | None:
    """Return the first difference that separates two workers, with the values in the order of the arguments."""
    left, right = one.card, other.card
    if one.pool == other.pool:
        found = member_difference(left.identity, right.identity)
        return found or next(_card_differences(left, right), None)
    if left.role == "prefill":
        return pair_difference(left.identity, right.identity)
    found = pair_difference(right.identity, left.identity)
    return None if found is None else found._replace(left=found.right, right=found.left)
