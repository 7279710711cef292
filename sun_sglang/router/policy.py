"""Who serves a request. Pure: it looks at the load that the router itself has put on each worker."""

from __future__ import annotations

from collections.abc import Sequence, Set

from sun_sglang.router.registry import Pair, Worker


def choose(pairs: Sequence[Pair], avoid: Set[str] = frozenset()) -> Pair | None:
    """The pair that serves a request; None if there is no pair.

    Decode: fewest outstanding requests, since a decode step costs about the same for every request in the batch; then
    fewest outstanding tokens. Prefill: fewest outstanding prompt tokens, which is the time its queue takes; then fewest
    requests. What is left goes to the worker chosen longest ago.

    Args:
        pairs: the usable pairs of the task.
        avoid: names of workers that failed this request before; taken only where there is no other way.
    """
    return min(pairs, key=lambda pair: _rank(pair, avoid), default=None)


def _rank(pair: Pair, avoid: Set[str]) -> tuple[int, ...]:
    failed = (pair.prefill.name in avoid) + (pair.decode.name in avoid) if avoid else 0
    return failed, *_decode_load(pair.decode), *_prefill_load(pair.prefill)


def _decode_load(worker: Worker) -> tuple[int, int, int]:
    return worker.requests, worker.tokens, worker.picked


def _prefill_load(worker: Worker) -> tuple[int, int, int]:
    return worker.tokens, worker.requests, worker.picked
