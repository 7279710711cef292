"""The fewest workers of each pool with which a load meets its objectives, found by simulation. Pure.

First the prefill pools are sized, with more decode workers than are needed, and then the decode pools. The search of
all pools runs at once, since a pool of one task says nothing about that of another: each simulation tries one size of
each pool. It starts at the number that Little's law gives (`autoscaling/sizing.py`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sun_sglang.autoscaling.demand import Demand, answer_demand
from sun_sglang.autoscaling.sizing import workers_needed
from sun_sglang.autoscaling.step_cost import step_cost
from sun_sglang.plan.outcome import Cause, Objectives, Outcome, PlanError, alone, share_text
from sun_sglang.plan.simulator import Simulator
from sun_sglang.plan.system import System
from sun_sglang.plan.traffic import Arrival
from sun_sglang.topology import Role

LOAD: Final = 0.85
"""The share of a prefill pool's time that is planned for where no objective limits the time to the first token."""
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


def play(system: System, load: Load, searched: Iterable[str] = ()) -> Played:
    """Simulate a load.

    Args:
        system: the system.
        load: the load.
        searched: pools that are judged; the simulation ends early once all of them have missed too often.
    """
    tasks = system.tasks
    outcome = Outcome(load.objectives, lambda task: (tasks[task].prefill, tasks[task].decode), load.begin)
    simulator = Simulator(system, outcome, seed=load.seed)
    totals = Counter(
        pool for a in load.arrivals if a.at >= load.begin for pool in (tasks[a.task].prefill, tasks[a.task].decode)
    )
    allowed = {pool: (1 - load.ratio) * totals[pool] for pool in searched}
    stopped = False

    def is_lost() -> bool:
        nonlocal stopped
        stopped = bool(allowed) and all(outcome.missed(pool) > most for pool, most in allowed.items())
        return stopped

    simulator.run(load.arrivals, until=is_lost)
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
    prefill = _Search(system.resized(ample), load, "prefill", _prefill_guesses(system, load, most), most, note)
    with_prefill = prefill.run().system
    sized = with_prefill.resized(guesses)
    decode = _Search(sized, load, "decode", guesses, most, note)
    best = decode.run()
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
        step = decode.decode_seconds(1, arrival.prompt)
        found = {
            Cause.TPOT: f"a decode step with one request alone takes {1000 * step:.1f} ms",
            Cause.PREFILL: f"a prompt of {arrival.prompt} tokens alone takes {1000 * (request.first - arrival.at):.0f} ms",
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
    need = workers_needed(demand, cost, tpot, 1.0).workers if tpot > 0 else 1.0
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
        system: the system; its pools of the other role stay as they are.
        load: the load.
        role: the role.
        guesses: the first size of each pool.
        most: most workers of one pool.
        note: receives what is tried.

    Attributes:
        less: the last simulation in which a pool was too small.
        simulations: how many were made.
    """

    def __init__(
        self,
        system: System,
        load: Load,
        role: Role,
        guesses: Mapping[str, int],
        most: int,
        note: Callable[[str], None],
    ) -> None:
        self.less: Played | None = None
        self.simulations = 0
        self._system = system
        self._load = load
        self._role = role
        self._most = most
        self._note = note
        self._try = dict(guesses)
        # the largest size that is too small, and the smallest that is enough
        self._low = dict.fromkeys(guesses, 0)
        self._enough: dict[str, int] = {}

    def run(self) -> Played:
        """Return the simulation of the fewest workers.

        Raises:
            PlanError: a pool needs more workers than it may have.
        """
        open_pools = list(self._try)
        while open_pools:
            system = self._system.resized(self._try)
            self._note(f"{system.name}: {system.workers('prefill')} prefill, {system.workers('decode')} decode workers")
            played = play(system, self._load, open_pools)
            self.simulations += 1
            open_pools = [pool for pool in open_pools if self._judge(pool, played)]
        # all pools at once: the last simulation may have had other sizes
        best = play(self._system.resized(self._enough), self._load)
        self.simulations += 1
        return best

    def _judge(self, pool: str, played: Played) -> bool:
        """Note whether a size is enough, and choose the next one. Return whether there is another one to try."""
        tried = self._try[pool]
        if self._is_enough(pool, played):
            self._enough[pool] = tried
        else:
            if self.less is None or tried > self._low[pool]:
                self.less = played
            self._low[pool] = tried
            if tried >= self._most:
                raise PlanError(self._too_many(pool, played))
        low, enough = self._low[pool], self._enough.get(pool)
        if enough is None:
            self._try[pool] = min(self._most, math.ceil(low * _GROWTH))
        else:
            # a step down from the guess is small: the guess is mostly close
            self._try[pool] = (low + enough) // 2 if low else max(1, min(enough - 1, math.floor(enough / _GROWTH)))
        if enough is not None and enough - low <= 1:
            self._try[pool] = enough
            return False
        return True

    def _is_enough(self, pool: str, played: Played) -> bool:
        objectives, ratio = self._load.objectives, self._load.ratio
        if self._role == "prefill":
            if objectives.time_to_first_token is None and objectives.request_latency is None:
                return played.busy[pool] <= LOAD
            # what is missed for another reason than prefill does not improve with more prefill workers
            if not played.outcome.causes[Cause.PREFILL] + played.outcome.causes[Cause.LATENCY]:
                return played.whole
            # half of what may be missed is left to the decode workers
            ratio = (1 + ratio) / 2
        share = played.outcome.pools.get(pool)
        if share is None:
            return True
        if played.whole:
            return share.ratio >= ratio
        total = sum(
            1
            for a in self._load.arrivals
            if a.at >= self._load.begin and pool in (self._system.tasks[a.task].prefill, self._system.tasks[a.task].decode)
        )
        return played.outcome.missed(pool) <= (1 - ratio) * total

    def _too_many(self, pool: str, played: Played) -> str:
        cause = played.outcome.causes.most_common(1)[0][0] if played.outcome.causes else "time"
        share = played.outcome.pools.get(pool)
        found = f"{share_text(share.ratio)} of its requests are within the objectives" if share else "it is too busy"
        return (
            f"--max-workers: {self._most} workers of pool `{pool}` of `{self._system.name}` are too few ({cause}: "
            f"{found}); allow more, or give a longer objective"
        )
