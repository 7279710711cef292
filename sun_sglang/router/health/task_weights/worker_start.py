"""What one start of a prefill worker has of the weights of tasks, as far as this router knows. State; no I/O."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping

from sun_sglang.contracts.module import TaskWeights
from sun_sglang.router.workers.worker import Worker
from sun_sglang.router.workers.worker_paths import Pair

# Canaries of different weights on one worker at the same time: a batch of prompts serves several adapters, and a worker
# with requests of clients is not flooded.
CANARIES = 4


class WorkerStart:
    """One start of a worker.

    Args:
        worker: the worker, which is admitted.

    Attributes:
        worker: see above.
        incarnation: of this start.
        loaded: names of the weights that this router loaded and did not unload.
        confirmed: those of them that the worker has, by its last reply about them.
        proving: weights whose canary waits or runs.
        slots: limits the canaries that run.
    """

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.incarnation = worker.incarnation
        self.loaded: set[str] = set()
        self.confirmed: set[str] = set()
        self.proving: set[TaskWeights] = set()
        self.slots = asyncio.Semaphore(CANARIES)
        self._loading = ""
        # weights whose load had no answer: the worker may have them now, or later
        self._uncertain: set[str] = set()
        # loop time since which no task needs the weights
        self._unneeded: dict[str, float] = {}
        # weights that are unloaded without a pause
        self._hasty: set[str] = set()

    @property
    def pool(self) -> str:
        """The worker's pool."""
        return self.worker.spec.pool

    @property
    def has_ended(self) -> bool:
        """Whether the worker has restarted. A worker that is absent may come back as it was."""
        return self.worker.incarnation != self.incarnation

    @property
    def is_current(self) -> bool:
        """Whether the worker is admitted with this start."""
        return self.worker.admitted and not self.has_ended

    def has(self, name: str) -> bool:
        """Return whether the worker has weights, or is loading them, as far as it has answered."""
        return name in self.loaded or name == self._loading

    def note_needed(self, names: set[str], now: float) -> None:
        """Note which weights tasks need at loop time `now`, in seconds."""
        self._hasty = {name for name in self._hasty - names if self.has(name) or name in self._uncertain}
        unneeded = (self.loaded | self._uncertain) - names
        since = {name: -math.inf if name in self._hasty else now for name in unneeded}
        self._unneeded = since | {name: at for name, at in self._unneeded.items() if since.get(name) == now}

    def unneeded(self) -> Mapping[str, float]:
        """Return the weights to unload, which no task needs, each with the loop time since which none does."""
        return self._unneeded

    def skip_pause(self, name: str) -> None:
        """Unload weights without a pause if no task needs them."""
        self._hasty.add(name)

    def keep_until(self, name: str, time: float) -> None:
        """Count the pause of weights that no task needs from a loop time on: requests still use them."""
        self._hasty.discard(name)
        if name in self._unneeded:
            self._unneeded[name] = time

    def note_loading(self, name: str) -> None:
        """Note that a load has begun."""
        self._loading = name

    def note_loaded(self, name: str, success: bool | None) -> None:
        """Note that a load has ended; `success` is None if the worker did not answer."""
        self._loading = ""
        if success is None:
            self._uncertain.add(name)
            return
        self._uncertain.discard(name)
        if success:
            self.loaded.add(name)
            self.confirmed.add(name)

    def note_unloaded(self, name: str) -> None:
        """Note that the worker does not have weights any more."""
        self.loaded.discard(name)
        self.confirmed.discard(name)
        self._uncertain.discard(name)
        self._hasty.discard(name)
        self._unneeded.pop(name, None)


def uses_weights(pair: Pair, worker: Worker, name: str) -> bool:
    """Return whether a request on a pair uses weights of a worker."""
    return pair.prefill is worker and pair.weights is not None and pair.weights.name == name
