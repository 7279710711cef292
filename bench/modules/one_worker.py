"""One prefill worker with modules that take turns, in virtual time. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from sun_sglang.bench.modules.prefill_load import PrefillLoad
from sun_sglang.module_turns.turns import Policy, Turns
from sun_sglang.sim.cost_model import CostModel
from sun_sglang.sim.prefill_scheduler import PrefillScheduler

# no KV runs out: it is freed when a prompt was computed
_KV_TOKENS = 10**9


@dataclass(frozen=True)
class Waits:
    """What the requests of a load met.

    Attributes:
        seconds: from each request's arrival until its prompt was computed, sorted.
        changes: changes of modules.
        ended: clock seconds at which the last prompt was computed.
    """

    seconds: tuple[float, ...]
    changes: int
    ended: float

    def within(self, slo: float) -> float:
        """Return the share of the requests that waited no longer than `slo` seconds."""
        return sum(wait <= slo for wait in self.seconds) / len(self.seconds)

    def quantile(self, share: float) -> float:
        """Return the time that this share of the requests waited at most."""
        return self.seconds[min(len(self.seconds) - 1, int(share * len(self.seconds)))]


def run(load: PrefillLoad, costs: CostModel, policy: Policy, *, slo: float, seed: int) -> Waits:
    """Run a load to its end on one worker, which starts with the most popular module.

    Args:
        load: the load.
        costs: of the worker.
        policy: chooses the next module.
        slo: seconds from a request's arrival until its prompt should be computed.
        seed: of the load.
    """
    arrivals = load.arrivals(seed)
    turns = Turns(_name(0), slo=slo, now=0.0, policy=policy)
    scheduler = PrefillScheduler(costs, kv_tokens=_KV_TOKENS, turns=turns)
    waits, now, sent = list[float](), 0.0, 0
    while sent < len(arrivals) or scheduler.due is not None:
        due = scheduler.due
        if sent < len(arrivals) and (due is None or arrivals[sent].at < due):
            at, task, prompt = arrivals[sent]
            now = at
            scheduler.submit(str(sent), prompt, module=_name(task), since=at)
            sent += 1
        else:
            assert due is not None, "requests are in flight"
            now = due
        for done in scheduler.step(now):
            scheduler.release(done.rid)
            waits.append(now - arrivals[int(done.rid)].at)
    return Waits(tuple(sorted(waits)), sum(c.changes for c in turns.changed.values()), now)


def _name(task: int) -> str:
    return f"{task:016x}"
