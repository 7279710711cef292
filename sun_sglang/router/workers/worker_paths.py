"""Paths between a prefill and a decode worker: which are proven, and what each pair of pools can use. State; no I/O.

A path belongs to a pair of workers and to no task: one canary proves it for every task whose pools hold the two
workers. A rule of a task (`any_decoder`) selects among proven paths and needs no canary of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sun_sglang.contracts.fleet_file import FleetTask
from sun_sglang.contracts.module import ModuleRef, TaskWeights
from sun_sglang.contracts.scheme import Side
from sun_sglang.contracts.worker_card import WorkerCard
from sun_sglang.router.protocol.prompt_length import PromptLimits
from sun_sglang.router.task_weights.worker_modules import OWN
from sun_sglang.router.workers.compatibility import (
    NamedCard,
    WeightsTuning,
    decoder_mismatch,
    first_token_mismatch,
    mismatch,
    pair_first_token,
)
from sun_sglang.router.workers.worker import Worker


class WorkerPath(NamedTuple):
    """The path of a request's KV: the name of the worker that prefills, and of the worker that decodes."""

    prefill: str
    decode: str


class Starts(NamedTuple):
    """The incarnations of a path's two workers. A restart of either worker makes others, and the proof void."""

    prefill: str
    decode: str


@dataclass(frozen=True, slots=True)
class Pair:
    """The two workers of a path, over which it iterates, and the own weights of the task that it serves.

    Attributes:
        prefill: the prefill worker.
        decode: the decode worker.
        weights: the adapter or the module with which the prefill worker serves the task; None for its own model.
    """

    prefill: Worker
    decode: Worker
    weights: TaskWeights | None = None

    def __iter__(self) -> Iterator[Worker]:
        return iter((self.prefill, self.decode))

    @property
    def path(self) -> WorkerPath:
        """The names of both workers."""
        return WorkerPath(self.prefill.name, self.decode.name)

    @property
    def module(self) -> str:
        """The module that the prefill worker must have loaded, as `WorkerModules` names it."""
        return self.weights.revision if isinstance(self.weights, ModuleRef) else OWN

    @property
    def first_token(self) -> Side:
        """The side that makes the first token; the cards of both workers must have been read."""
        assert self.prefill.card is not None
        assert self.decode.card is not None
        return pair_first_token(self.prefill.card, self.decode.card, WeightsTuning.of(self.weights))


class PoolPair(NamedTuple):
    """The pools of a task, and the task's rules on paths between them. Tasks with equal values use the same paths.

    Attributes:
        prefill: the prefill pool.
        decode: the decode pool.
        any_decoder: accept a decoder for which the task was not tuned.
        tuning: of the task's own weights; None without any. Hundreds of tasks have the same, and so the same paths.
    """

    prefill: str
    decode: str
    any_decoder: bool
    tuning: WeightsTuning | None = None

    @classmethod
    def of(cls, task: FleetTask) -> PoolPair:
        """Return the pools and the rules of a task."""
        return cls(task.prefill, task.decode, task.any_decoder, WeightsTuning.of(task.weights))

    def sort_key(self) -> tuple[str, str, bool, WeightsTuning]:
        """Return a key to sort by."""
        return self.prefill, self.decode, self.any_decoder, self.tuning or WeightsTuning("", "prefill")


class UnusablePath(NamedTuple):
    """A path between two admitted workers that carries no requests.

    Attributes:
        path: the two workers.
        refusal: why the two workers may not be paired, so that no canary is sent; empty if only a canary is missing.
    """

    path: WorkerPath
    refusal: str


class PoolPaths(NamedTuple):
    """All paths between two pools, under one rule.

    Attributes:
        usable: proven pairs; only these carry requests.
        unusable: the other paths between admitted workers that take requests.
        unproven: those of them that need a canary.
        limit: the limit of every usable pair. Without one, the limit of the last usable pairs between these pools; None
            if there never was one.
    """

    usable: tuple[Pair, ...]
    unusable: tuple[UnusablePath, ...]
    unproven: tuple[WorkerPath, ...]
    limit: PromptLimits | None


class _Comparison(NamedTuple):
    """The result of the rules for a pair of cards, and the tuning of a task's own weights."""

    prefill: WorkerCard
    decode: WorkerCard
    mismatch: str
    decoder_mismatch: str


class PathTable:
    """Proven paths, and the usable paths of each pair of pools.

    `between` computes its result once after each change of a worker of the two pools, or of a proof between them.

    Args:
        workers: all workers by name. The caller reports a change of one with `invalidate`.
        members: returns the workers of a pool.
    """

    def __init__(self, workers: Mapping[str, Worker], members: Callable[[str], Sequence[Worker]]) -> None:
        self._workers = workers
        self._members = members
        self._proven: dict[WorkerPath, Starts] = {}
        # proven peers of each worker
        self._peers: dict[str, set[str]] = {}
        self._between: dict[PoolPair, PoolPaths] = {}
        self._limits: dict[PoolPair, PromptLimits] = {}
        self._comparisons: dict[tuple[WorkerPath, WeightsTuning | None], _Comparison] = {}

    def between(self, pools: PoolPair) -> PoolPaths:
        """Return the paths between two pools."""
        found = self._between.get(pools)
        if found is None:
            found = self._between[pools] = self._compute(pools)
        return found

    def starts(self, path: WorkerPath) -> Starts | None:
        """Return the incarnations of a path's workers; None unless both workers are admitted."""
        prefill, decode = self._workers.get(path.prefill), self._workers.get(path.decode)
        if prefill is None or decode is None or not (prefill.admitted and decode.admitted):
            return None
        return Starts(prefill.incarnation, decode.incarnation)

    def has_proven(self, name: str) -> bool:
        """Return whether a path of a worker is proven."""
        return bool(self._peers.get(name))

    def prove(self, path: WorkerPath, starts: Starts) -> bool:
        """Store that a canary between these starts passed. Return False if a worker has changed since it was sent."""
        if self.starts(path) != starts:
            return False
        self._proven[path] = starts
        self._peers.setdefault(path.prefill, set()).add(path.decode)
        self._peers.setdefault(path.decode, set()).add(path.prefill)
        self._invalidate_between(path)
        return True

    def revoke(self, path: WorkerPath) -> bool:
        """Forget the proof of one path. Return False if there is none."""
        if self._proven.pop(path, None) is None:
            return False
        self._peers[path.prefill].discard(path.decode)
        self._peers[path.decode].discard(path.prefill)
        self._invalidate_between(path)
        return True

    def revoke_all(self, worker: Worker) -> None:
        """Forget every proof of a worker, since it changed."""
        for peer in tuple(self._peers.pop(worker.name, ())):
            self._peers[peer].discard(worker.name)
            path = WorkerPath(worker.name, peer) if worker.role == "prefill" else WorkerPath(peer, worker.name)
            del self._proven[path]
        self.invalidate(worker)

    def invalidate(self, worker: Worker) -> None:
        """Discard the computed paths of a worker's pool, since the worker changed."""
        pool = worker.spec.pool
        for pools in [pools for pools in self._between if pool in (pools.prefill, pools.decode)]:
            del self._between[pools]

    def forget(self, worker: Worker) -> None:
        """Forget a worker that has left."""
        self.revoke_all(worker)
        for key in [key for key in self._comparisons if worker.name in key[0]]:
            del self._comparisons[key]

    def keep(self, pools: Collection[PoolPair]) -> None:
        """Forget the computed paths and the limits of all other pairs of pools."""
        self._between = {pair: paths for pair, paths in self._between.items() if pair in pools}
        self._limits = {pair: limit for pair, limit in self._limits.items() if pair in pools}

    def _invalidate_between(self, path: WorkerPath) -> None:
        prefill, decode = self._workers[path.prefill].spec.pool, self._workers[path.decode].spec.pool
        for pools in [pools for pools in self._between if (pools.prefill, pools.decode) == (prefill, decode)]:
            del self._between[pools]

    def _compute(self, pools: PoolPair) -> PoolPaths:
        usable: list[Pair] = []
        unusable: list[UnusablePath] = []
        decodes = [w for w in self._members(pools.decode) if w.admitted and w.takes_requests]
        for prefill in self._members(pools.prefill):
            if not (prefill.admitted and prefill.takes_requests):
                continue
            for decode in decodes:
                path = WorkerPath(prefill.name, decode.name)
                refusal = self._refusal(path, pools)
                if not refusal and self._proven.get(path) == (prefill.incarnation, decode.incarnation):
                    usable.append(Pair(prefill, decode))
                else:
                    unusable.append(UnusablePath(path, refusal))
        if usable:
            self._limits[pools] = _limit(usable)
        unproven = tuple(one.path for one in unusable if not one.refusal)
        return PoolPaths(tuple(usable), tuple(unusable), unproven, self._limits.get(pools))

    def _refusal(self, path: WorkerPath, pools: PoolPair) -> str:
        """Return why two admitted workers may not be paired; empty if they may. Cards that stay are compared once.

        A worker is compared with its peers when it is admitted, and with those of another pool when a task begins to
        use both.
        """
        prefill, decode = self._workers[path.prefill].named_card, self._workers[path.decode].named_card
        assert prefill is not None, "an admitted worker has a card"
        assert decode is not None, "an admitted worker has a card"
        found = self._comparisons.get((path, pools.tuning))
        if found is None or found.prefill is not prefill.card or found.decode is not decode.card:
            found = self._comparisons[path, pools.tuning] = _compare(prefill, decode, pools.tuning)
        return found.mismatch or ("" if pools.any_decoder else found.decoder_mismatch)


def _compare(prefill: NamedCard, decode: NamedCard, tuning: WeightsTuning | None) -> _Comparison:
    found = mismatch(prefill, decode) or first_token_mismatch(prefill, decode, tuning)
    return _Comparison(prefill.card, decode.card, found, decoder_mismatch(prefill, decode, tuning))


def _limit(pairs: Sequence[Pair]) -> PromptLimits:
    cards = [worker.card for pair in pairs for worker in pair if worker.card is not None]
    # SGLang refuses a prompt that fills the context (managers/tokenizer_manager.py: _validate_one_request)
    tokens = min(min(c.max_input_tokens, c.context_length - 1, c.kv_tokens) for c in cards)
    covered = [c.token_bytes for c in cards if c.token_bytes is not None]
    token_bytes = max(covered) if len(covered) == len(cards) else None
    return PromptLimits(tokens, min(c.identity.vocab_size for c in cards), token_bytes)
