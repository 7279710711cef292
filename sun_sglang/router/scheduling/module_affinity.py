"""Select the prefill workers for which a request costs the fewest changes between modules, and the least wait. Pure.

A worker changes its weights between two batches, for whichever module its waiting requests need. The cost of a worker
is counted in prompt tokens, as its load is: the work that it has, with the changes ahead of it, and the changes that
the request adds to them. It adds none where its module is loaded or waited for; one where the loaded module has no
requests; and two where it has some, since the worker must change back for those that come after.

So a request waits for a worker that has its module until that costs more than a change elsewhere, and then another
worker gets the module too: a module with many requests gets as many workers as it fills.
"""

from __future__ import annotations

from collections.abc import Sequence

from sun_sglang.router.workers.worker import Worker
from sun_sglang.router.workers.worker_paths import Pair

# A change takes about as long as this many times the prompt, where no worker has measured one.
PROMPTS_A_CHANGE = 2


def prefer_module(pairs: Sequence[Pair], cost: int) -> Sequence[Pair]:
    """Return the pairs whose prefill workers cost a request the least; all pairs in a pool without modules.

    These are the workers that need as few changes as the cheapest one, and that cost less than one change more: among
    them the policy selects.

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
    added = {worker: changes_added(worker, module) for worker in workers}
    costs = {worker: worker_cost(worker, added[worker], change) for worker in workers}
    best = min(workers, key=lambda worker: (costs[worker], added[worker]))
    most = costs[best] + change
    chosen = {w for w in workers if w is best or (added[w] == added[best] and costs[w] < most)}
    return [pair for pair in pairs if pair.prefill in chosen]


def change_tokens(workers: Sequence[Worker], cost: int) -> float:
    """Return the prompt tokens that a worker computes in the time of a change, by the slowest change of the workers.

    Args:
        workers: workers of one pool.
        cost: expected work of a request, in tokens; the measure where no change was measured.
    """
    measured = max(worker.modules.change_tokens for worker in workers)
    return measured or PROMPTS_A_CHANGE * max(1, cost)


def changes_added(worker: Worker, module: str) -> int:
    """Return the changes that a request for a module adds to those that a worker makes anyway."""
    modules = worker.modules
    if modules.has(module):
        return 0
    return 2 if modules.is_wanted(modules.loaded) else 1


def worker_cost(worker: Worker, added: int, change: float) -> float:
    """Return the cost of a worker for a request, in prompt tokens.

    Args:
        worker: the worker.
        added: changes that the request adds.
        change: tokens of a change.
    """
    return worker.load.total_tokens + (worker.modules.changes_ahead + added) * change
