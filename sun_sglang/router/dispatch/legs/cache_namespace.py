"""The cache namespace of a request: whose KV it may reuse. Pure."""

from __future__ import annotations

import orjson

from sun_sglang.contracts.module import ModuleRef, TaskWeights, module_namespace
from sun_sglang.router.workers.worker_paths import Pair


def cache_namespace(
    pool: str,
    module: str,
    extra_key: str | None = None,
    cache_salt: str | None = None,
    *,
    weights: TaskWeights | None = None,
) -> str:
    """Return the namespace of a request.

    Requests share KV only if one module prefills them; a client's own keys divide the namespace further. Two different
    inputs never give the same namespace: no pool name or revision contains `@`, `+`, `*` or `#`, and the client's part
    is JSON.

    Args:
        pool: the prefill pool.
        module: revision of what the pool's workers compute: the weights, and the flags that change their output.
        extra_key: the client's part.
        cache_salt: the same, under SGLang's other name.
        weights: the task's own weights on the prefill worker, whose revision is a part of the namespace; None for the
            pool's model.
    """
    made_by = f"{pool}@{module}"
    if isinstance(weights, ModuleRef):
        made_by = module_namespace(made_by, weights.revision)
    elif weights is not None:
        made_by = f"{made_by}+{weights.revision}"
    if not extra_key and not cache_salt:
        return made_by
    return f"{made_by}#{orjson.dumps([extra_key or None, cache_salt or None]).decode()}"


def may_reuse_answers(pair: Pair) -> bool:
    """Return whether the decode leg may reuse what earlier requests of the namespace left in the decode cache.

    The decode module makes an answer's KV. If the prefill module would make other KV of the same tokens, a later turn
    of the conversation must not find it. Weights of a task's own make the prefill module another one than its pool's.
    """
    prefill, decode = pair.prefill.card, pair.decode.card
    assert prefill is not None, "a usable pair has been read"
    assert decode is not None, "a usable pair has been read"
    return not decode.keeps_answers or (pair.weights is None and prefill.module == decode.module)
