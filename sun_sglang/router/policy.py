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
    if not pairs:
        return None
    if avoid:
        fewest = min(_failed(pair, avoid) for pair in pairs)
        pairs = [pair for pair in pairs if _failed(pair, avoid) == fewest]
    decode = min({pair.decode for pair in pairs}, key=_decode_load)
    prefill = min((pair.prefill for pair in pairs if pair.decode is decode), key=_prefill_load)
    return Pair(prefill, decode)


def _failed(pair: Pair, avoid: Set[str]) -> int:
    return (pair.prefill.name in avoid) + (pair.decode.name in avoid)


def _decode_load(worker: Worker) -> tuple[int, int, int]:
    return worker.requests, worker.tokens, worker.picked


def _prefill_load(worker: Worker) -> tuple[int, int, int]:
    return worker.tokens, worker.requests, worker.picked
