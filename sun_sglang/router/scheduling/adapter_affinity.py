"""Prefer the prefill workers that hold a task's adapter in a slot, unless they are overloaded. Pure.

A request whose adapter is in no slot waits for a copy, and evicts another task's adapter.
"""

from __future__ import annotations

from collections.abc import Sequence

from sun_sglang.contracts.adapter import AdapterRef
from sun_sglang.router.scheduling.affinity import load_bound
from sun_sglang.router.workers.worker_paths import Pair

# A worker may be ahead of the least loaded one by this many times the prompt before its adapter is no reason to wait
# for it: a copy takes about as long as a short prompt.
PROMPTS_AHEAD = 2


def prefer_resident(pairs: Sequence[Pair], cost: int) -> Sequence[Pair]:
    """Return the pairs whose prefill worker holds the task's adapter and is not overloaded; all pairs if none is.

    Args:
        pairs: usable pairs of one task, at least one.
        cost: expected work of the request on a prefill worker, in tokens.
    """
    adapter = pairs[0].weights
    if not isinstance(adapter, AdapterRef):
        return pairs
    workers = list(dict.fromkeys(pair.prefill for pair in pairs))
    holding = [worker for worker in workers if worker.resident.holds(adapter.name)]
    if not holding or len(holding) == len(workers):
        return pairs
    least = min(worker.load.total_tokens for worker in workers)
    bound = max(load_bound(workers, cost), least + PROMPTS_AHEAD * max(1, cost))
    free = {worker for worker in holding if worker.load.total_tokens < bound}
    return [pair for pair in pairs if pair.prefill in free] or pairs
