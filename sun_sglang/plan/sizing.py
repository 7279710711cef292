"""The fewest workers of each pool with which a load meets its objectives, found by simulation. Pure.

First the prefill pools are sized, with more decode workers than are needed: half of the requests that may miss the
objectives may miss them for a cause of prefill. The decode pools then get what is left of them. The search of all pools
of a role runs at once, since a pool of one task says nothing about that of another: each simulation tries one size of
each pool. It starts at the number that Little's law gives (`autoscaling/sizing.py`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sun_sglang.autoscaling.demand import Demand, answer_demand
from sun_sglang.autoscaling.sizing import Target, workers_needed
from sun_sglang.autoscaling.step_cost import step_cost
from sun_sglang.plan.outcome import Cause, Objectives, Outcome, PlanError, alone, share_text
from sun_sglang.plan.simulator import Simulator
from sun_sglang.plan.system import System
from sun_sglang.plan.traffic import Arrival
from sun_sglang.topology import Role

LOAD: Final = 0.85
"""The share of a prefill pool's time that is planned for where no objective limits the time to the first token."""
_CAUSES: Final[Mapping[Role, frozenset[Cause]]] = {
    "prefill": frozenset({Cause.PREFILL, Cause.LATENCY}),
    "decode": frozenset({Cause.MEMORY, Cause.TPOT, Cause.LATENCY}),
}
"""What more workers of a role improve."""
_GROWTH = 1.3


@dataclass(frozen=True)
class Load:
    """A load and its objectives.

    Attributes:
        arrivals: the requests in the order of time.
        seconds: its length.
        objectives: the limits.
        ratio: the share of each pool's requests that is within them.
        begin: seconds at the start that do not count.
        seed: of the router's random choices.
    """

    arrivals: Sequence[Arrival]
    seconds: float
    objectives: Objectives
    ratio: float
    begin: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Played:
    """One simulation.

    Attributes:
        system: the system.
        outcome: what the load met.
        busy: share of its time for which each prefill pool computed.
        peak: largest share of a worker's KV that was held, of each decode pool.
        retractions: answers that lost their KV and had to wait for it again.
        ended: clock seconds of the last event.
        whole: whether all of the load was played.
    """

    system: System
    outcome: Outcome
    busy: Mapping[str, float]
    peak: Mapping[str, float]
    retractions: int
    ended: float
    whole: bool


@dataclass(frozen=True)
class Sized:
    """A system of the fewest workers.

    Attributes:
        best: its simulation.
        less: the simulation of the largest system that was found too small, by decode workers; None if one worker is
            enough for every pool.
        simulations: how many were made.
    """

    best: Played
    less: Played | None
    simulations: int

    @property
    def breaks_first(self) -> Cause | None:
        """The cause of most misses with fewer decode workers; None if there are none with one worker."""
        causes = self.less.outcome.causes if self.less else None
        return causes.most_common(1)[0][0] if causes else None

    def gpu_hours(self, seconds: float) -> float:
        """Return the GPU-hours of a time."""
        return self.best.system.gpus * seconds / 3600


def play(system: System, load: Load, is_lost: Callable[[Outcome], bool] = lambda outcome: False) -> Played:
    """Simulate a load.

    Args:
        system: the system.
        load: the load.
        is_lost: ends the simulation early where it returns true.
    """
    tasks = system.tasks
    outcome = Outcome(load.objectives, lambda task: (tasks[task].prefill, tasks[task].decode), load.begin)
    simulator = Simulator(system, outcome, seed=load.seed)
    stopped = False

    def stop() -> bool:
        nonlocal stopped
        stopped = is_lost(outcome)
        return stopped

    simulator.run(load.arrivals, until=stop)
    seconds = max(load.seconds, simulator.now)
    busy = {
        name: sum(worker.busy for worker in pool) / (len(pool) * seconds) for name, pool in simulator.prefills.items()
    }
    peak = {name: max(worker.peak for worker in pool) for name, pool in simulator.decodes.items()}
    lost = sum(worker.scheduler.lost for pool in simulator.decodes.values() for worker in pool)
    return Played(system, outcome, busy, peak, lost, simulator.now, not stopped)


def size(system: System, load: Load, *, most: int, note: Callable[[str], None] = lambda text: None) -> Sized:
    """Return a system with the fewest workers that meet the objectives.

    Args:
        system: the system; the numbers of its workers do not matter.
        load: the load.
        most: most workers of one pool.
        note: receives what is tried.

    Raises:
        PlanError: no number of workers meets the objectives, or it takes more than `most`; the message has the reason.
    """
    require_feasible(system, load)
    demand = _demand(system, load)
    guesses = {name: min(most, _guess(system, load, name, demand[name])) for name in system.names("decode")}
    ample = {name: min(most, 2 * count + 2) for name, count in guesses.items()}
    may_miss = 1 - load.ratio
    prefill = _Search("prefill", load, may_miss / 2, most, note)
    found = prefill.run(system.resized(ample), _prefill_guesses(system, load, most))
    others = found.outcome.all.missed(set(Cause) - _CAUSES["decode"])
    if others > may_miss:
        raise PlanError(
            f"router: with its limits on requests in flight, {share_text(others)} of the requests of `{system.name}` "
            "wait too long or are turned away, whatever the number of workers; raise max_requests and max_tokens"
        )
    decode = _Search("decode", load, may_miss - others, most, note)
    best = decode.run(found.system, guesses)
    return Sized(best, decode.less, prefill.simulations + decode.simulations)


def require_feasible(system: System, load: Load) -> None:
    """Check that enough requests meet the objectives where each is served alone.

    Raises:
        PlanError: too few do, whatever the number of workers.
    """
    causes: Counter[Cause] = Counter()
    worst: dict[Cause, str] = {}
    for arrival in load.arrivals:
        task = system.tasks[arrival.task]
        prefill, decode = system.pools[task.prefill].costs, system.pools[task.decode].costs
        request = alone(arrival, prefill, decode, system.kv_bytes)
        cause = load.objectives.missed(request)
        if cause is None:
            continue
        causes[cause] += 1
        step, first = decode.decode_seconds(1, arrival.prompt), request.first - arrival.at
        found = {
            Cause.TPOT: f"a decode step with one request alone takes {1000 * step:.1f} ms",
            Cause.PREFILL: f"a prompt of {arrival.prompt} tokens alone takes {1000 * first:.0f} ms",
            Cause.MEMORY: f"a prompt of {arrival.prompt} tokens does not fit into the KV of a worker",
        }
        worst.setdefault(cause, found.get(cause, f"an answer of {arrival.answer} tokens alone takes too long"))
    missed = causes.total() / len(load.arrivals)
    if missed > 1 - load.ratio:
        cause = causes.most_common(1)[0][0]
        raise PlanError(
            f"--slo: no number of workers of `{system.name}` meets it for {100 * load.ratio:g} % of the requests: "
            f"{worst[cause]}; {share_text(missed)} of the requests miss it when they are served alone"
        )


def _demand(system: System, load: Load) -> dict[str, Demand]:
    """Return the demand a second of each decode pool."""
    total: dict[str, Demand] = dict.fromkeys(system.names("decode"), Demand())
    for arrival in load.arrivals:
        pool = system.tasks[arrival.task].decode
        total[pool] = total[pool].plus(answer_demand(arrival.prompt, arrival.answer))
    return {name: demand.times(1 / load.seconds) for name, demand in total.items()}


def _guess(system: System, load: Load, pool: str, demand: Demand) -> int:
    cost = step_cost(system.pools[pool].costs)
    # without an objective, so many workers that the steps take three times as long as those of an empty batch
    tpot = load.objectives.inter_token_latency or 3 * cost.seconds(1, 0)
    need = workers_needed(demand, cost, Target(tpot, min(load.ratio, 0.99), 1.0)).workers if tpot > 0 else 1.0
    return max(1, math.ceil(need)) if math.isfinite(need) else 1


def _prefill_guesses(system: System, load: Load, most: int) -> dict[str, int]:
    work: dict[str, float] = dict.fromkeys(system.names("prefill"), 0.0)
    for arrival in load.arrivals:
        pool = system.tasks[arrival.task].prefill
        work[pool] += system.pools[pool].costs.prefill_seconds([arrival.prompt])
    return {name: min(most, max(1, math.ceil(seconds / load.seconds))) for name, seconds in work.items()}


class _Search:
    """The search over the sizes of the pools of one role.

    Args:
        role: the role.
        load: the load.
        may_miss: the part of a pool's requests that may miss the objectives for a cause of this role.
        most: most workers of one pool.
        note: receives what is tried.

    Attributes:
        less: the simulation with the most workers in which a pool had too few.
        simulations: how many were made.
    """

    def __init__(self, role: Role, load: Load, may_miss: float, most: int, note: Callable[[str], None]) -> None:
        self.less: Played | None = None
        self.simulations = 0
        self._role = role
        self._load = load
        self._may_miss = may_miss
        self._most = most
        self._note = note
        self._totals: Counter[str] = Counter()
        # the next size, the largest that is too small, and the smallest that is enough
        self._try: dict[str, int] = {}
        self._low: dict[str, int] = {}
        self._enough: dict[str, int] = {}

    def run(self, system: System, guesses: Mapping[str, int]) -> Played:
        """Return the simulation of the fewest workers.

        Args:
            system: the system; its pools of the other role stay as they are.
            guesses: the first size of each pool.

        Raises:
            PlanError: a pool needs more workers than it may have.
        """
        pools = [system.tasks[a.task] for a in self._load.arrivals if a.at >= self._load.begin]
        self._totals = Counter(task.prefill if self._role == "prefill" else task.decode for task in pools)
        self._try, self._low, self._enough = dict(guesses), dict.fromkeys(guesses, 0), {}
        searched = list(guesses)
        while searched:
            played = self._play(system.resized(self._try), searched)
            searched = [pool for pool in searched if self._judge(pool, played)]
        # all pools at once: the last simulation may have had other sizes
        return self._play(system.resized(self._enough), [])

    def _play(self, system: System, searched: Sequence[str]) -> Played:
        self._note(f"{system.name}: {system.workers('prefill')} prefill, {system.workers('decode')} decode workers")
        self.simulations += 1
        # by time, not by requests, where nothing limits the first token
        early = bool(searched) and not self._by_time
        return play(
            system, self._load, lambda found: early and not any(self._may_be_enough(pool, found) for pool in searched)
        )

    @property
    def _by_time(self) -> bool:
        objectives = self._load.objectives
        return self._role == "prefill" and objectives.time_to_first_token is None and objectives.request_latency is None

    def _may_be_enough(self, pool: str, found: Outcome) -> bool:
        """Return whether few enough requests of a pool have missed the objectives so far."""
        share = found.pools.get(pool)
        missed = sum(share.causes[cause] for cause in _CAUSES[self._role]) if share else 0
        return missed <= self._may_miss * self._totals[pool]

    def _judge(self, pool: str, played: Played) -> bool:
        """Note whether a size is enough, and choose the next one. Return whether there is another one to try."""
        tried = self._try[pool]
        if played.busy[pool] <= LOAD if self._by_time else self._may_be_enough(pool, played.outcome):
            self._enough[pool] = tried
        else:
            workers = played.system.workers(self._role)
            if self.less is None or workers >= self.less.system.workers(self._role):
                self.less = played
            self._low[pool] = tried
            if tried >= self._most:
                raise PlanError(self._too_few(pool, played))
        low, enough = self._low[pool], self._enough.get(pool)
        if enough is None:
            self._try[pool] = min(self._most, math.ceil(low * _GROWTH))
            return True
        if enough - low <= 1:
            self._try[pool] = enough
            return False
        # the first step down is small: the guess is mostly close
        self._try[pool] = (low + enough) // 2 if low else min(enough - 1, math.floor(enough / _GROWTH))
        return True

    def _too_few(self, pool: str, played: Played) -> str:
        share = played.outcome.pools.get(pool)
        why = "it computes for more than its part of the time"
        if share is not None and share.causes:
            cause, count = share.causes.most_common(1)[0]
            why = f"{count} of its {self._totals[pool]} requests miss the objectives for {cause}"
        return (
            f"--max-workers: {self._most} workers of pool `{pool}` of `{played.system.name}` are too few: {why}; "
            "allow more, or give longer objectives"
        )
