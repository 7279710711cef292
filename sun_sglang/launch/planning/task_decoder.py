"""Check that the own weights of a task, an adapter or a module, fit the decoder of its decode pool."""

from __future__ import annotations

from sun_sglang.checkpoint.tuning import is_tuned_for
from sun_sglang.contracts.module import TaskWeights
from sun_sglang.errors import IdentityError
from sun_sglang.launch.planning.pools import ResolvedPool


def require_decoder(where: str, weights: TaskWeights, decode: ResolvedPool, fix: str) -> None:
    """Raise unless weights were tuned for a decoder, and the decoder was tuned on the KV of no others.

    Args:
        where: the YAML path of the weights.
        weights: the task's own weights on its prefill pool.
        decode: the task's decode pool; not compared where its checkpoint is not on this machine.
        fix: what to change for a decoder that was tuned on the KV of other weights, as the rest of a sentence.

    Raises:
        IdentityError: names both.
    """
    if decode.identity is None:
        return
    if not is_tuned_for(weights.tuned_for, decode.identity.decoder):
        raise IdentityError(
            f"{where}: {weights.directory}: was tuned to be decoded by weights {weights.tuned_for}, and "
            f"`{decode.name}` has weights {decode.identity.decoder}; name the right decode pool, tune again for this "
            "one, or set `any_decoder: true` on the task"
        )
    module = decode.served_module
    if module is not None and (tuned_on := module.tuned_on(decode.identity.weights, decode.identity.decoder)):
        raise IdentityError(
            f"{where}: {weights.directory}: `{decode.name}` was tuned on prompts that weights {tuned_on} {fix}, or set "
            "`any_decoder: true` on the task"
        )
