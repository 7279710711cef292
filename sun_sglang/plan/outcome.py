"""Latencies of a simulated load, the share of requests within the objectives, and why the others miss them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from sun_sglang.errors import UserError
from sun_sglang.plan.digest import Digest
from sun_sglang.plan.simulator import Request
from sun_sglang.plan.traffic import Arrival
from sun_sglang.router.scheduling.task_queue import Claim
from sun_sglang.sim.cost_model import CostModel
from sun_sglang.strict import listed


class PlanError(UserError):
    """A deployment cannot be planned as asked; the message names the option or the objective."""


class Cause(StrEnum):
    """The first thing that breaks for a request.

    Attributes:
        QUEUE: it waited too long for its turn in the router, or was turned away.
        MEMORY: it waited too long for KV on its decode worker, or did not fit.
        PREFILL: its prompt waited and was computed for too long.
        TPOT: the decode steps took too long.
        LATENCY: all of it took too long, though its first token and its steps did not.
    """

    QUEUE = "queue"
    MEMORY = "decode memory"
    PREFILL = "prefill"
    TPOT = "decode steps"
    LATENCY = "answer length"


@dataclass(frozen=True)
class Objectives:
    """The limits within which a request counts, in seconds; None is no limit.

    Attributes:
        time_to_first_token: from arrival to the first token.
        inter_token_latency: mean time between two tokens of an answer.
        request_latency: from arrival to the last token.
    """

    time_to_first_token: float | None = None
    inter_token_latency: float | None = None
    request_latency: float | None = None

    def missed(self, request: Request) -> Cause | None:
        """Return why a request that has ended misses the objectives; None if it is within them."""
        match request.failure:
            case "full" | "timeout":
                return Cause.QUEUE
            case "memory" | "length":
                return Cause.MEMORY
        begun = request.arrival.at
        if self.time_to_first_token is not None and request.first - begun > self.time_to_first_token:
            stages = {
                Cause.QUEUE: request.sent - begun,
                Cause.MEMORY: request.admitted - request.sent,
                Cause.PREFILL: request.first - request.admitted,
            }
            return max(stages, key=stages.__getitem__)
        if self.inter_token_latency is not None and inter_token_latency(request) > self.inter_token_latency:
            return Cause.TPOT
        if self.request_latency is not None and request.ended - begun > self.request_latency:
            return Cause.LATENCY
        return None


def inter_token_latency(request: Request) -> float:
    """Return the mean seconds between two tokens of an answer; 0 for one token."""
    gaps = request.arrival.answer - 1
    return (request.ended - request.first) / gaps if gaps > 0 else 0.0


def parse_objectives(limits: dict[str, float]) -> Objectives:
    """Return the objectives of limits in milliseconds, as `sun bench --goodput` names them.

    Raises:
        PlanError: an objective cannot be planned for.
    """
    known = Objectives.__dataclass_fields__
    for name in limits:
        if name not in known:
            raise PlanError(f"--slo: `{name}` cannot be planned for; known: {listed(known)}")
    return Objectives(**{name: limit / 1000 for name, limit in limits.items()})


@dataclass
class Share:
    """Requests of one pool, or all.

    Attributes:
        requests: how many.
        causes: those that miss the objectives, by cause.
    """

    requests: int = 0
    causes: Counter[Cause] = field(default_factory=Counter)

    @property
    def ratio(self) -> float:
        """The part within the objectives; 1 without requests."""
        return 1 - self.missed(Cause)

    def missed(self, causes: Iterable[Cause]) -> float:
        """Return the part that misses the objectives for one of these causes; 0 without requests."""
        return sum(self.causes[cause] for cause in causes) / self.requests if self.requests else 0.0


class Outcome:
    """What a load meets, of the requests that arrive in a window.

    Args:
        objectives: the limits.
        pools: returns the names of the pools of a task, by its position.
        begin: seconds at the start that do not count: the load is not yet what it will be.

    Attributes:
        ttft: seconds to the first token.
        tpot: mean seconds between the tokens of an answer.
        latency: seconds to the last token.
        pools: the requests of each pool.
        all: all requests.
        tokens: output tokens of the requests that were answered.
    """

    def __init__(
        self, objectives: Objectives, pools: Callable[[int], tuple[str, ...]] = lambda task: (), begin: float = 0.0
    ) -> None:
        self.ttft, self.tpot, self.latency = Digest(), Digest(), Digest()
        self.all = Share()
        self.pools: dict[str, Share] = {}
        self.tokens = 0
        self._objectives = objectives
        self._pools = pools
        self._begin = begin

    def note(self, request: Request) -> None:
        """See `Recorder`."""
        if request.arrival.at < self._begin:
            return
        cause = self._objectives.missed(request)
        for share in (self.all, *(self.pools.setdefault(name, Share()) for name in self._pools(request.arrival.task))):
            share.requests += 1
            if cause is not None:
                share.causes[cause] += 1
        if request.failure:
            return
        self.tokens += request.arrival.answer
        self.ttft.add(request.first - request.arrival.at)
        self.latency.add(request.ended - request.arrival.at)
        if request.arrival.answer > 1:
            self.tpot.add(inter_token_latency(request))

    @property
    def causes(self) -> Counter[Cause]:
        """The requests that miss the objectives, by cause."""
        return self.all.causes


def alone(arrival: Arrival, prefill: CostModel, decode: CostModel, kv_bytes: int) -> Request:
    """Return a request as it ends where no other one is served: no number of workers serves it faster.

    Args:
        arrival: the request.
        prefill: costs of its prefill worker.
        decode: costs of its decode worker.
        kv_bytes: bytes of KV of a token.
    """
    request = Request(0, arrival, Claim("", 0))
    prompt = arrival.prompt
    if prompt + 1 >= min(prefill.kv_tokens, decode.kv_tokens):
        request.failure = "length"
    request.sent = request.admitted = arrival.at
    request.first = arrival.at + prefill.prefill_seconds([prompt]) + prefill.transfer_seconds(prompt * kv_bytes)
    steps = arrival.answer - 1
    first = decode.decode_seconds(1, prompt + 1)
    request.ended = request.first + steps * first + decode.decode_per_context_token * steps * (steps - 1) / 2
    return request


def share_text(share: float) -> str:
    """Return a share as text that is not rounded up to 100 %."""
    return f"{math.floor(1000 * share) / 10:.1f} %"
