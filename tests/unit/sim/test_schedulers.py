"""The schedulers in virtual time: nothing here waits."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.module_turns.turns import Turns
from sun_sglang.sim.cost_model import CostModel
from sun_sglang.sim.decode_scheduler import Admitted, DecodeScheduler, Ended, Token
from sun_sglang.sim.prefill_scheduler import PrefillScheduler

COSTS = CostModel(decode_step=1.0, decode_per_context_token=0.001, prefill=1.0, prefill_per_token=0.01)


@dataclass
class Trace:
    """A decode worker run to its end, with every KV transfer taking `transfer` seconds."""

    scheduler: DecodeScheduler
    transfer: float = 0.5
    now: float = 0.0
    admitted: list[str] = field(default_factory=list)
    tokens: dict[str, list[int]] = field(default_factory=dict)
    ended: list[tuple[str, str, float]] = field(default_factory=list)
    arriving: list[tuple[float, str]] = field(default_factory=list)

    def step(self) -> None:
        for rid in [rid for at, rid in self.arriving if at <= self.now]:
            self.scheduler.arrive(rid)
        self.arriving = [(at, rid) for at, rid in self.arriving if at > self.now]
        for event in self.scheduler.step(self.now):
            match event:
                case Admitted(rid):
                    self.admitted.append(rid)
                    self.arriving.append((self.now + self.transfer, rid))
                case Token(rid, made):
                    self.tokens.setdefault(rid, []).append(made)
                case Ended(rid, why):
                    self.ended.append((rid, why, self.now))
        assert 0 <= self.scheduler.used <= self.scheduler.kv_tokens

    def finish(self) -> None:
        for _ in range(100_000):
            self.step()
            times = [at for at, _ in self.arriving] + ([self.scheduler.due] if self.scheduler.due is not None else [])
            if not times:
                return
            self.now = max(self.now, min(times))
        raise AssertionError("it never ends")


@given(
    st.lists(st.tuples(st.integers(2, 60), st.integers(0, 60), st.booleans()), min_size=1, max_size=25),
    st.integers(64, 200),
    st.integers(0, 40),
)
def test_decode_never_holds_more_kv_than_there_is_and_ends_every_request_once(
    requests: list[tuple[int, int, bool]], kv_tokens: int, reserved: int
) -> None:
    trace = Trace(DecodeScheduler(COSTS, kv_tokens=kv_tokens, reserved=reserved))
    for i, (prompt, limit, makes_first) in enumerate(requests):
        trace.scheduler.submit(f"r{i}", prompt, limit, makes_first=makes_first)
    trace.finish()
    assert trace.admitted == [f"r{i}" for i in range(len(requests))], "first in, first out"
    assert sorted(rid for rid, _, _ in trace.ended) == sorted(trace.admitted), "each ends exactly once"
    for rid, why, _ in trace.ended:
        prompt, limit, _ = requests[int(rid[1:])]
        made = trace.tokens.get(rid, [])
        assert made == list(range(1, len(made) + 1)), "one token at a time, none twice"
        assert (len(made) == limit) if why == "length" else (prompt + len(made) > kv_tokens)
    assert trace.scheduler.used == 0


def test_first_token_that_the_decode_worker_makes_takes_a_step_over_the_whole_prompt() -> None:
    for makes_first, steps in ((False, 3), (True, 4)):
        trace = Trace(DecodeScheduler(CostModel(decode_step=1.0), kv_tokens=100), transfer=0.5)
        trace.scheduler.submit("r", 10, 4, makes_first=makes_first)
        trace.step()
        assert trace.scheduler.used == 10 - makes_first, "the KV of the last prompt token is made here"
        trace.finish()
        assert trace.ended == [("r", "length", 0.5 + steps)]
        assert trace.tokens["r"] == [1, 2, 3, 4]


def test_request_for_no_token_ends_when_its_kv_arrives_whatever_makes_the_first() -> None:
    trace = Trace(DecodeScheduler(COSTS, kv_tokens=100, reserved=0))
    for makes_first in (False, True):
        trace.scheduler.submit(f"r{makes_first}", 10, 0, makes_first=makes_first)
    trace.finish()
    assert sorted(trace.ended) == [("rFalse", "length", 0.5), ("rTrue", "length", 0.5)]
    assert trace.tokens == {}


def test_request_retracted_before_its_first_token_makes_it_after_it_resumed() -> None:
    """The newest request has the fewest tokens, so it is the first to lose its KV when the cache is full."""
    trace = Trace(DecodeScheduler(COSTS, kv_tokens=41, reserved=0), transfer=0.0)
    trace.scheduler.submit("old", 20, 15)
    trace.step()
    trace.scheduler.submit("new", 21, 3, makes_first=True)
    trace.finish()
    assert trace.scheduler.used == 0
    assert trace.tokens == {"old": list(range(1, 16)), "new": [1, 2, 3]}


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 30)), min_size=2, max_size=12), st.data())
def test_a_dropped_request_gives_its_kv_back_wherever_it_is(
    requests: list[tuple[int, int]], data: st.DataObject
) -> None:
    trace = Trace(DecodeScheduler(COSTS, kv_tokens=100, reserved=4))
    for i, (prompt, limit) in enumerate(requests):
        trace.scheduler.submit(f"r{i}", prompt, limit)
    dropped: set[str] = set()
    for _ in range(data.draw(st.integers(0, 30))):
        trace.step()
        rid = f"r{data.draw(st.integers(0, len(requests) - 1))}"
        if data.draw(st.booleans()):
            dropped.add(rid)
            trace.scheduler.drop(rid)
            trace.arriving = [(at, r) for at, r in trace.arriving if r != rid]
        times = [at for at, _ in trace.arriving] + ([trace.scheduler.due] if trace.scheduler.due is not None else [])
        trace.now = max(trace.now, min(times)) if times else trace.now
    trace.finish()
    ended = [rid for rid, _, _ in trace.ended]
    assert len(ended) == len(set(ended))
    assert set(ended) | dropped == {f"r{i}" for i in range(len(requests))}
    assert trace.scheduler.used == 0


def test_a_step_takes_what_its_batch_and_context_cost() -> None:
    trace = Trace(DecodeScheduler(COSTS, kv_tokens=1000), transfer=0.0)
    trace.scheduler.submit("a", 100, 3)
    trace.finish()
    # the first token comes with the KV; the second takes 1 s and 101 tokens of context, the third 102
    assert trace.ended == [("a", "length", 0.0 + 1.101 + 1.102)]


def test_one_prompt_that_does_not_fit_holds_up_those_behind_it() -> None:
    trace = Trace(DecodeScheduler(COSTS, kv_tokens=100, reserved=0))
    for rid, prompt in (("a", 60), ("huge", 90), ("small", 5)):
        trace.scheduler.submit(rid, prompt, 2)
    trace.step()
    assert trace.admitted == ["a"]
    assert trace.scheduler.waiting == 2


def test_a_full_cache_retracts_the_request_with_the_fewest_tokens_and_admits_nobody_before_it() -> None:
    trace = Trace(DecodeScheduler(COSTS, kv_tokens=40, reserved=0), transfer=0.0)
    trace.scheduler.submit("old", 10, 25)
    trace.step()
    trace.step()
    trace.now = trace.scheduler.due or 0.0
    trace.step()
    trace.scheduler.submit("young", 20, 15)
    while not trace.scheduler.retracted:
        trace.step()
        trace.now = trace.scheduler.due or trace.now
    assert trace.scheduler.retractions("young") == 1
    trace.scheduler.submit("newcomer", 1, 1)
    trace.step()
    assert "newcomer" not in trace.admitted
    trace.finish()
    assert {(rid, why) for rid, why, _ in trace.ended} == {
        ("old", "length"),
        ("young", "length"),
        ("newcomer", "length"),
    }
    assert len(trace.tokens["young"]) == 15


def test_a_request_that_cannot_grow_even_alone_ends_for_memory() -> None:
    trace = Trace(DecodeScheduler(COSTS, kv_tokens=20, reserved=0))
    trace.scheduler.submit("a", 15, 100)
    trace.finish()
    assert [(rid, why) for rid, why, _ in trace.ended] == [("a", "memory")]


def test_a_request_that_is_held_keeps_its_kv_and_lets_the_others_go_on() -> None:
    held = {"a": 2, "b": 0}
    scheduler = DecodeScheduler(
        COSTS, kv_tokens=1000, reserved=0, is_held=lambda rid, made: made >= held.get(rid, made + 1)
    )
    trace = Trace(scheduler, transfer=0.0)
    for rid in "abc":
        trace.scheduler.submit(rid, 10, 4)
    trace.finish()
    assert trace.tokens == {"a": [1, 2], "c": [1, 2, 3, 4]}
    assert trace.scheduler.used == 10 + 1 + 10
    held.clear()
    trace.finish()
    assert {rid for rid, why, _ in trace.ended if why == "length"} == {"a", "b", "c"}
    assert trace.scheduler.used == 0


def run_prefill(scheduler: PrefillScheduler, *, hold: float) -> list[tuple[str, float]]:
    """Run the scheduler to its end; every prompt's KV is held `hold` seconds after it was computed."""
    now, done, held = 0.0, [], []
    for _ in range(10_000):
        for rid in [rid for at, rid in held if at <= now]:
            scheduler.release(rid)
        held = [(at, rid) for at, rid in held if at > now]
        for event in scheduler.step(now):
            done.append((event.rid, now))
            held.append((now + hold, event.rid))
        assert 0 <= scheduler.used <= scheduler.kv_tokens
        times = [at for at, _ in held] + ([scheduler.due] if scheduler.due is not None else [])
        if not times:
            return done
        now = max(now, min(times))
    raise AssertionError("it never ends")


@given(
    st.lists(st.tuples(st.integers(1, 80), st.integers(0, 79)), min_size=1, max_size=25),
    st.integers(80, 200),
    st.integers(1, 100),
)
def test_prefill_is_first_in_first_out_and_within_its_kv(
    prompts: list[tuple[int, int]], kv_tokens: int, batch_tokens: int
) -> None:
    scheduler = PrefillScheduler(COSTS.model_copy(update={"max_prefill_tokens": batch_tokens}), kv_tokens=kv_tokens)
    for i, (tokens, cached) in enumerate(prompts):
        scheduler.submit(f"r{i}", tokens, cached=min(cached, tokens - 1))
    done = run_prefill(scheduler, hold=0.3)
    assert [rid for rid, _ in done] == [f"r{i}" for i in range(len(prompts))]
    assert scheduler.used == scheduler.waiting == 0


def test_a_batch_takes_what_its_uncached_tokens_cost() -> None:
    scheduler = PrefillScheduler(COSTS, kv_tokens=1000)
    scheduler.submit("a", 100, cached=60)
    scheduler.submit("b", 10)
    assert run_prefill(scheduler, hold=0.0) == [("a", 1.5), ("b", 1.5)]


def test_a_prompt_released_while_it_is_computed_is_not_reported() -> None:
    scheduler = PrefillScheduler(COSTS, kv_tokens=1000)
    scheduler.submit("a", 10)
    scheduler.step(0.0)
    scheduler.release("a")
    assert scheduler.used == 0
    assert scheduler.step(100.0) == []


def test_prefill_batch_has_prompts_of_one_module_and_a_change_comes_before_it() -> None:
    costs = COSTS.model_copy(update={"module_change": 5.0})
    turns = Turns("own", slo=1000.0, now=0.0)
    scheduler = PrefillScheduler(costs, kv_tokens=1000, turns=turns)
    for rid, module in (("a", None), ("b", "m"), ("c", None), ("d", "m")):
        scheduler.submit(rid, 100, module=module)
    # two prompts of 100 tokens take 3 s together
    assert run_prefill(scheduler, hold=0.0) == [("a", 3.0), ("c", 3.0), ("b", 11.0), ("d", 11.0)]
    assert turns.loaded == "m"
    assert {name: (c.changes, c.seconds) for name, c in turns.changed.items()} == {"m": (1, 5.0)}
    assert (turns.pace.change, turns.pace.batch) == (5.0, 3.0)


def test_prefill_does_nothing_else_during_a_change_and_counts_its_queues() -> None:
    scheduler = PrefillScheduler(
        COSTS.model_copy(update={"module_change": 5.0}), kv_tokens=1000, turns=Turns("own", slo=1.0, now=0.0)
    )
    scheduler.submit("b", 100, module="m", since=0.0)
    scheduler.step(0.0)
    scheduler.submit("a", 100, since=1.0)
    assert scheduler.step(1.0) == []
    assert (scheduler.running, scheduler.waiting, scheduler.due) == (0, 2, 5.0)
    assert scheduler.queued == {"m": 1, "own": 1}
    scheduler.step(5.0)
    assert (scheduler.running, scheduler.queued, scheduler.due) == (1, {"own": 1}, 7.0)


def test_prefill_whose_prompts_are_gone_when_a_change_ends_goes_on_with_another_module() -> None:
    scheduler = PrefillScheduler(
        COSTS.model_copy(update={"module_change": 5.0}), kv_tokens=1000, turns=Turns("own", slo=1.0, now=0.0)
    )
    scheduler.submit("b", 100, module="m")
    scheduler.step(0.0)
    scheduler.release("b")
    assert scheduler.step(5.0) == []
    assert scheduler.due is None
    scheduler.submit("a", 100, since=6.0)
    assert run_prefill(scheduler, hold=0.0) == [("a", 7.0)]
