"""The I/O of registration: cards are read, paths are proven by canaries, and ready workers are watched."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import NamedTuple
from weakref import WeakValueDictionary

import aiohttp
from pydantic import ValidationError

from sun_sglang.contracts.worker_card import WORKER_CARD_PATH, WorkerCard
from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.dispatch.attempt import Ticket
from sun_sglang.router.dispatch.dispatcher import Dispatcher
from sun_sglang.router.dispatch.pair_response import PairResponse
from sun_sglang.router.errors import ApiError
from sun_sglang.router.health.canary import canary_fault, is_same_fault, make_canary
from sun_sglang.router.observability.log import Log
from sun_sglang.router.observability.metrics import Metrics
from sun_sglang.router.text import truncate
from sun_sglang.router.transport.errors import is_exhausted
from sun_sglang.router.transport.http_session import OversizedError, describe_error, read_at_most
from sun_sglang.router.workers.paths import Pair, Path
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.worker import State, Worker
from sun_sglang.strict import first_invalid

# A canary may hang until its deadline. The slots belong to one pair of workers, so that a hanging pair delays no other.
CANARIES_PER_PAIR = 4
# A real card has about 2 KB.
MAX_CARD_BYTES = 1 << 18
MAX_REASON = 500
# A busy server answers late; only this many silent probes in a row mean that it hangs.
SILENT_PROBES = 3


class ProbeError(Exception):
    """A worker's card could not be read.

    Args:
        reason: why, for humans.
        silent: the worker may only be slow.
        refused: the worker answered, and its answer is no valid card.
        ours: the router could not ask; that says nothing about the worker.
    """

    def __init__(self, reason: str, *, silent: bool = False, refused: bool = False, ours: bool = False) -> None:
        self.silent = silent
        self.refused = refused
        self.ours = ours
        super().__init__(reason[:MAX_REASON])


class Failure(NamedTuple):
    """The last canary over a path failed.

    Attributes:
        of: incarnations of the two workers.
        why: the fault.
        times: how many canaries in a row failed so, between these incarnations.
        pause: seconds until the next one.
        next_try: loop time of the next one.
    """

    of: tuple[str, str]
    why: str
    times: int
    pause: float
    next_try: float


class Prober:
    """Keeps a registry in step with the workers.

    Every worker is looked at each `probe_interval` by reading its card: a cheap static page that also tells a restart
    from a pause. A broken connection ends its registration at once.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        registry: Registry,
        dispatcher: Dispatcher,
        metrics: Metrics,
        log: Log,
        deadlines: Deadlines,
    ) -> None:
        self._session = session
        self._deadlines = deadlines
        self._registry = registry
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._log = log
        self._interval = registry.fleet.router.probe_interval
        self._rng = random.Random()
        self._look: dict[str, asyncio.Event] = {}
        self._group: asyncio.TaskGroup | None = None
        self._news = asyncio.Event()
        self._states: dict[str, tuple[State, str]] = {}
        self._failed: dict[Path, Failure] = {}
        self._slots: WeakValueDictionary[tuple[str, str], asyncio.Semaphore] = WeakValueDictionary()
        registry.on_ejected.append(self._look_again)
        registry.on_added.append(self._start)
        registry.on_revoked.append(self._news.set)

    async def run(self) -> None:
        """Watch every worker and prove every path until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            for worker in self._registry.workers.values():
                self._start(worker)
            group.create_task(self._prove_paths())

    async def canary(self, path: Path) -> str:
        """Send one canary over a path between admitted workers. Returns what is wrong with it, or an empty string."""
        pair = Pair(self._registry.workers[path.prefill], self._registry.workers[path.decode])
        assert pair.decode.card is not None, "only admitted workers get canaries"
        canary = make_canary(path.task, pair.decode.card.identity.vocab_size, self._rng)
        ticket = Ticket(path.task, None, self._dispatcher.now(), counted=False)
        try:
            outcome = await self._dispatcher.try_pair(canary, pair, ticket, self._deadlines.canary, fresh=True)
        except ApiError as error:
            fault = error.body.decode(errors="replace") if error.body else error.message
        else:
            fault = canary_fault(outcome.head) if isinstance(outcome, PairResponse) else outcome.error.message
        self._metrics.canaries.labels(path.task, "failed" if fault else "ok").inc()
        return truncate(fault, MAX_REASON)

    def canary_fault(self, path: Path) -> tuple[str, int]:
        """Return why the last canary over a path failed, and how many in a row failed so; empty and 0 if none did."""
        failed = self._failed.get(path)
        known = failed is not None and failed.of == self._registry.incarnations(path)
        return (failed.why, failed.times) if failed is not None and known else ("", 0)

    # --- workers --------------------------------------------------------------------------------------------------

    def _start(self, worker: Worker) -> None:
        if self._group is not None:
            self._look[worker.name] = asyncio.Event()
            self._group.create_task(self._watch(worker, self._look[worker.name]))

    def _look_again(self, name: str) -> None:
        if (look := self._look.get(name)) is not None:
            look.set()

    async def _watch(self, worker: Worker, look: asyncio.Event) -> None:
        silent = 0
        while self._is_there(worker):
            asked, clock_asked = self._now(), self._dispatcher.clock.now()
            try:
                card = await self._read_card(worker)
            except ProbeError as e:
                if not self._is_there(worker):
                    break
                busy = worker.is_reading(asked) or self._dispatcher.progressed(worker) >= clock_asked
                silent = _count_silence(silent, e, busy=busy)
                if silent >= SILENT_PROBES:
                    self._eject(worker, e)
            else:
                silent = 0
                if not self._is_there(worker):
                    break
                self._admit(worker, card)
            self._registry.progress()
            if self._is_there(worker):
                self._report(worker)
                look.clear()
                await _wait(look, self._interval)
        if self._look.get(worker.name) is look:
            del self._look[worker.name]
            self._states.pop(worker.name, None)
        self._log.event("worker_removed", worker=worker.name, pool=worker.spec.pool)

    def _is_there(self, worker: Worker) -> bool:
        return self._registry.workers.get(worker.name) is worker

    async def _read_card(self, worker: Worker) -> WorkerCard:
        limit = max(self._deadlines.probe, self._interval)
        try:
            async with (
                self._dispatcher.clock.timeout(limit),
                self._session.get(
                    worker.spec.url + WORKER_CARD_PATH, headers=worker.spec.headers, allow_redirects=False
                ) as response,
            ):
                body = await read_at_most(response, MAX_CARD_BYTES)
                if response.status == 401:
                    raise ProbeError("it requires a worker key that the fleet does not give; set its `key`")
                if response.status != 200:
                    raise ProbeError(f"GET {WORKER_CARD_PATH} answered {response.status}")
                return WorkerCard.model_validate_json(body)
        except TimeoutError as e:
            raise ProbeError(f"no answer within {limit:g} s", silent=True) from e
        except ValidationError as e:
            problem = first_invalid(e, WorkerCard).describe("the reply")
            raise ProbeError(f"its card is not valid: {problem}", refused=True) from e
        except OversizedError as e:
            raise ProbeError(f"its card is not valid: {e}", refused=True) from e
        except (aiohttp.ClientError, OSError) as e:
            raise ProbeError(describe_error(e), ours=is_exhausted(e)) from e
        except ValueError as e:
            # a host that no resolver takes
            raise ProbeError(f"{worker.spec.url} cannot be asked: {e}") from e

    def _admit(self, worker: Worker, card: WorkerCard) -> None:
        if worker.admitted and card == worker.card:
            return
        # a refused worker is judged again each time: what it was refused for may have been another worker's fault
        if not self._registry.admit(worker.name, card):
            self._news.set()

    def _eject(self, worker: Worker, error: ProbeError) -> None:
        if worker.card is not None:
            self._metrics.ejections.labels(worker.name).inc()
            self._registry.eject(worker.name, str(error), gone=True)
        self._registry.note_missing(worker.name, str(error), refused=error.refused)

    def _report(self, worker: Worker) -> None:
        now = (self._registry.state(worker.name), worker.reason)
        if self._states.get(worker.name) != now:
            self._states[worker.name] = now
            self._log.event("worker", worker=worker.name, pool=worker.spec.pool, state=now[0], reason=now[1])

    # --- paths ------------------------------------------------------------------------------------------------------

    async def _prove_paths(self) -> None:
        """Send canaries over unproven paths, over each again after a while that doubles, until they are right."""
        busy: set[Path] = set()
        async with asyncio.TaskGroup() as group:
            while True:
                self._news.clear()
                for path in self._registry.unproven():
                    if path not in busy and self._is_due(path) and not self._registry.obstacle(path):
                        busy.add(path)
                        task = group.create_task(self._prove(path))
                        task.add_done_callback(_forget(busy, path))
                await _wait(self._news, self._pause())

    def _pause(self) -> float:
        """Seconds until the next look: a path whose canary failed may be due before the next interval is over."""
        again = [self._failed[p].next_try - self._now() for p in self._registry.unproven() if p in self._failed]
        return min([self._interval, *(pause for pause in again if pause > 0)])

    def _is_due(self, path: Path) -> bool:
        failed = self._failed.get(path)
        return failed is None or failed.of != self._registry.incarnations(path) or failed.next_try <= self._now()

    def _now(self) -> float:
        return self._dispatcher.now()

    async def _prove(self, path: Path) -> None:
        slots = self._slots.setdefault((path.prefill, path.decode), asyncio.Semaphore(CANARIES_PER_PAIR))
        async with slots:
            incarnations = self._registry.incarnations(path)
            if incarnations is None:
                return
            fault = await self.canary(path)
        if fault:
            failed = self._failed[path] = next_failure(
                self._failed.get(path), incarnations, fault, self._now(), self._deadlines
            )
            self._news.set()
            self._log.event("canary_failed", why=fault, again_in_s=failed.pause, **path._asdict())
        elif self._registry.prove(path, incarnations):
            self._failed.pop(path, None)
            self._log.event("path_proven", **path._asdict())
            for name in path[1:]:
                if (worker := self._registry.workers.get(name)) is not None:
                    self._report(worker)


def next_failure(before: Failure | None, of: tuple[str, str], why: str, now: float, deadlines: Deadlines) -> Failure:
    """Return the record of a canary that failed.

    Args:
        before: the record of the one before it over the same path; None if that one went through.
        of: incarnations of the two workers; a restart of one begins anew.
        why: the fault.
        now: loop time.
        deadlines: the shortest and the longest pause before the next canary.
    """
    if before is None or before.of != of:
        return Failure(of, why, 1, deadlines.canary_pause_min, now + deadlines.canary_pause_min)
    pause = min(before.pause * 2, deadlines.canary_pause_max)
    return Failure(of, why, before.times + 1 if is_same_fault(before.why, why) else 1, pause, now + pause)


def _count_silence(silent: int, error: ProbeError, *, busy: bool) -> int:
    """Return how many silent probes in a row count after one more failed.

    Args:
        silent: how many counted before.
        error: how the probe failed.
        busy: the worker had long prompts to tokenize, and answers nobody meanwhile; or it answered requests.
    """
    if error.ours:
        return silent
    if not error.silent:
        return SILENT_PROBES
    return silent if busy else silent + 1


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def _forget(busy: set[Path], path: Path) -> Callable[[asyncio.Task[None]], None]:
    def forget(_: asyncio.Task[None]) -> None:
        busy.discard(path)

    return forget
