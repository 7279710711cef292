"""Select the prefill workers for which a request costs the fewest changes between modules, and the least wait. Pure.

A worker changes its weights between two batches, for whichever module its waiting requests need. The cost of a worker
for a request is counted in prompt tokens, as its load is: the outstanding tokens, the changes that the worker makes for
the requests that it has, and the change that this request adds, if it adds one. That change delays more than the
request itself: every request on the worker waits meanwhile, and the module that was loaded may have to come back.

So a request waits for a worker that has its module until that costs more than a change elsewhere, and then another
worker gets the module too: a module with many requests gets as many workers as it fills, and where all workers have
much to do, requests of one module meet on one worker and share its change.
"""

from __future__ import annotations

from collections.abc import Sequence

from sun_sglang.router.workers.worker import Worker
from sun_sglang.router.workers.worker_paths import Pair

# A change takes about as long as this many times the prompt, where no worker has measured one.
PROMPTS_A_CHANGE = 2
# A change that a request adds counts this many times on an idle worker: there, and back to the module before it.
CHANGE_COST = 2


def prefer_module(pairs: Sequence[Pair], cost: int) -> Sequence[Pair]:
    """Return the pairs whose prefill workers cost a request the least; all pairs in a pool without modules.

    If the cheapest worker has the request's module, these are the workers that have it, else those that do not; each
    costs less than one change more than the cheapest one. Among them the policy selects.

    Args:
        pairs: usable pairs of one task, at least one.
        cost: expected work of the request on a prefill worker, in tokens.
    """
    card = pairs[0].prefill.card
    if card is None or card.modules is None:
        return pairs
    module, workers = pairs[0].module, list(dict.fromkeys(pair.prefill for pair in pairs))
    if len(workers) < 2:
        return pairs
    change = change_tokens(workers, cost)
    costs = {worker: worker_cost(worker, module, change) for worker in workers}
    best = min(workers, key=lambda worker: (costs[worker], added_changes(worker, module)))
    has, most = best.modules.has(module), costs[best] + change
    chosen = {w for w in workers if w is best or (w.modules.has(module) == has and costs[w] < most)}
    return [pair for pair in pairs if pair.prefill in chosen]


def change_tokens(workers: Sequence[Worker], cost: int) -> float:
    """Return the prompt tokens that a worker computes in the time of a change, by the slowest change of the workers.

    Args:
        workers: workers of one pool.
        cost: expected work of a request, in tokens; the measure where no change was measured.
    """
    measured = max(worker.modules.change_tokens for worker in workers)
    return measured or PROMPTS_A_CHANGE * max(1, cost)


def added_changes(worker: Worker, module: str) -> int:
    """Return the cost of the change that a request for a module adds on a worker, in changes; 0 if it adds none."""
    return 0 if worker.modules.has(module) else CHANGE_COST + worker.load.total_requests


def worker_cost(worker: Worker, module: str, change: float) -> float:
    """Return the cost of a worker for a request, in prompt tokens.

    Args:
        worker: the worker.
        module: the module of the request.
        change: tokens of a change.
    """
    changes = worker.modules.changes_ahead + added_changes(worker, module)
    return worker.load.total_tokens + changes * change
