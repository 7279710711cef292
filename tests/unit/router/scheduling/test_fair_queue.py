"""Properties of the fair queue: caps, queues, and each task's share of the answers in flight."""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.router.scheduling.fair_queue import FairQueue, QueueFull
from sun_sglang.router.scheduling.task_queue import MOST_CONTINUED, Caps, Claim, Share

NO_SHARES: dict[str, Share] = {}
CAPS = st.builds(Caps, st.none() | st.integers(1, 6), st.none() | st.integers(1, 3000))
SHARES = st.builds(Share, st.sampled_from([0.01, 0.5, 1.0, 3.0]), CAPS)
WEIGHTS = st.dictionaries(st.sampled_from("abcd"), st.sampled_from([0.1, 0.5, 1.0, 2.0, 5.0]), min_size=2)
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("come"),
            st.sampled_from("abc"),
            st.lists(st.integers(0, 4000), min_size=1, max_size=4),
            st.booleans(),
        ),
        st.tuples(st.just("end"), st.integers(0, 99)),
        st.tuples(st.just("give up"), st.integers(0, 99)),
        st.tuples(st.just("leave"), st.integers(0, 99)),
    ),
    max_size=80,
)


def admission(caps: Caps, shares: dict[str, Share] = NO_SHARES, queue_size: int = 10_000) -> FairQueue:
    return FairQueue(caps, queue_size, lambda task: shares.get(task, Share()))


def ask(of: FairQueue, task: str, *tokens: int, continues: bool = False) -> list[Claim]:
    claims = [Claim(task, t) for t in tokens]
    of.acquire(claims, continues=continues)
    return claims


class Model:
    """The state that an admission must have, kept by hand: every request's claims, and which of them are held."""

    def __init__(self, caps: Caps, shares: dict[str, Share], queue_size: int = 10_000) -> None:
        self.caps, self.shares = caps, shares
        self.of = admission(caps, shares, queue_size)
        self.requests: list[list[Claim]] = []
        self.held: list[Claim] = []

    @property
    def waiting(self) -> list[Claim]:
        return [claim for request in self.requests for claim in request if claim not in self.held]

    def step(self, step: Any) -> None:
        match step:
            case ("come", task, tokens, continues):
                request = [Claim(task, t) for t in tokens]
                self.requests.append(request)
                self.admit(self.of.acquire(request, continues=continues))
            case ("end", i) if self.held:
                self.release(self.held[i % len(self.held)])
            case ("give up", i) if self.waiting:
                self.release(self.waiting[i % len(self.waiting)])
            case ("leave", i) if self.requests:
                self.release(*self.requests[i % len(self.requests)])

    def release(self, *claims: Claim) -> None:
        self.held = [claim for claim in self.held if claim not in claims]
        for request in self.requests:
            request[:] = [claim for claim in request if claim not in claims]
        self.requests = [request for request in self.requests if request]
        self.admit(self.of.release(claims))

    def admit(self, claims: list[Claim]) -> None:
        for claim in claims:
            assert claim.held
            assert self.takes(claim), "a cap is exceeded"
            request = next(request for request in self.requests if claim in request)
            assert claim is next(c for c in request if c not in self.held), "a request's answers keep their order"
            self.held.append(claim)

    def takes(self, claim: Claim) -> bool:
        of_task = [held for held in self.held if held.task == claim.task]
        return _within(self.caps, [*self.held, claim]) and _within(self.shares[claim.task].caps, [*of_task, claim])


def _within(caps: Caps, held: list[Claim]) -> bool:
    return (caps.requests is None or len(held) <= caps.requests) and (
        caps.tokens is None or sum(claim.tokens for claim in held) <= caps.tokens
    )


@pytest.mark.invariant("I2")
@given(CAPS, SHARES, SHARES, SHARES, STEPS)
def test_admission_after_any_steps_keeps_caps_wastes_no_slot_and_loses_nothing(
    caps: Caps, a: Share, b: Share, c: Share, steps: list[Any]
) -> None:
    model = Model(caps, {"a": a, "b": b, "c": c})
    for step in steps:
        model.step(step)
        assert model.of.requests == len(model.held)
        assert model.of.tokens == sum(claim.tokens for claim in model.held)
        for task in "abc":
            waits = [claim for claim in model.waiting if claim.task == task]
            assert model.of.waiting(task) == len(waits)
        # one answer may wait for tokens, and holds the turn meanwhile
        assert not model.waiting or not all(map(model.takes, model.waiting)), "a slot is free for all that wait"
    while model.held:
        model.release(model.held[0])
    assert not model.waiting, "an answer is never admitted"
    assert (model.of.requests, model.of.tokens) == (0, 0)


@given(WEIGHTS, st.integers(1, 12), st.sampled_from([1, 300, 5000]), st.integers(0, 1 << 30))
def test_tasks_that_wait_hold_their_shares_once_earlier_answers_have_ended(
    weights: dict[str, float], slots: int, largest: int, seed: int
) -> None:
    """For any earlier owners of the slots and any order of ends, a task holds the whole slots of its share."""
    rng = random.Random(seed)
    of = admission(Caps(slots), {t: Share(w) for t, w in weights.items()})
    tasks = list(weights)
    held = [c for _ in range(slots) for c in ask(of, rng.choice(tasks), rng.randint(1, largest))]
    earlier = set(held)
    for task in tasks:
        ask(of, task, *(rng.randint(1, largest) for _ in range(20 * slots)))
    for _ in range(20 * slots):
        ended = held.pop(rng.randrange(len(held)))
        earlier.discard(ended)
        held += of.release([ended])
        if not all(of.waiting(task) for task in tasks):
            return
        if not earlier:
            _assert_quota(Counter(claim.task for claim in held), weights, slots)


def _assert_quota(held: Counter[str], weights: dict[str, float], slots: int) -> None:
    for task, weight in weights.items():
        share = slots * weight / sum(weights.values())
        assert math.floor(share + 1e-6) <= held[task] <= math.ceil(share - 1e-6)


@given(WEIGHTS, st.integers(500, 20_000), st.sampled_from([1, 300, 5000]), st.integers(0, 1 << 30))
def test_tasks_that_wait_hold_their_shares_of_tokens_within_an_answer(
    weights: dict[str, float], cap: int, largest: int, seed: int
) -> None:
    rng = random.Random(seed)
    of = admission(Caps(None, cap), {t: Share(w) for t, w in weights.items()})
    held = [claim for task in weights for claim in ask(of, task, *(rng.randint(1, largest) for _ in range(200)))]
    held = [claim for claim in held if claim.held]
    earlier = set(held)
    longest = min(largest, cap // 2)
    for _ in range(300):
        ended = held.pop(rng.randrange(len(held)))
        earlier.discard(ended)
        held += of.release([ended])
        if not all(of.waiting(task) for task in weights):
            return
        if not earlier:
            for task, weight in weights.items():
                share = cap * weight / sum(weights.values())
                tokens = sum(claim.tokens for claim in held if claim.task == task)
                assert tokens < share + longest


def test_quiet_task_beside_a_flood_gets_each_slot_until_it_has_its_share() -> None:
    of = admission(Caps(8))
    flood = ask(of, "flood", *[300] * 40)
    quiet = ask(of, "quiet", *[4096] * 8)
    held = [claim for claim in flood if claim.held]
    for begun in range(1, 5):
        of.release([held.pop()])
        assert sum(claim.held for claim in quiet) == begun
    assert sum(claim.held for claim in flood) == 4


def test_share_that_its_task_does_not_use_goes_to_the_tasks_that_wait() -> None:
    of = admission(Caps(9))
    ask(of, "idle", 1)
    a, b = ask(of, "a", *[300] * 20), ask(of, "b", *[10] * 20)
    for _ in range(8):
        of.release([next(claim for claim in a if claim.held)])
    assert [sum(claim.held for claim in claims) for claims in (a, b)] == [4, 4]


@given(WEIGHTS, st.integers(0, 1 << 30), st.sampled_from([1, 300, 5000]))
def test_tasks_that_wait_for_one_slot_take_turns_by_tokens(weights: dict[str, float], seed: int, largest: int) -> None:
    """The bound of Goyal, Vin and Cheng (1996), in units of weight, and an answer at each end of what is counted."""
    served = _serve(weights, 1, largest, seed, lambda rng, _: rng.random())
    _assert_apart(served, weights, lambda i, j: 2 * largest * (1 / weights[i] + 1 / weights[j]))


@pytest.mark.invariant("I19")
@given(WEIGHTS, st.integers(1, 7), st.integers(0, 1 << 30), st.sampled_from([1, 300, 5000]))
def test_tasks_that_wait_get_their_shares_of_work_where_work_takes_time(
    weights: dict[str, float], slots: int, seed: int, largest: int
) -> None:
    """A part of a slot is a task's in turns, so shares of work are exact in the long run, and not only whole slots."""
    served = _serve(weights, slots, largest, seed, lambda _, tokens: tokens)
    _assert_apart(served, weights, lambda i, j: 2 * (slots + 1) * largest * (1 / weights[i] + 1 / weights[j]))


def _serve(
    weights: dict[str, float],
    slots: int,
    largest: int,
    seed: int,
    duration: Callable[[random.Random, int], float],
) -> Counter[str]:
    """Serve while all tasks wait. Returns the tokens of each task's answers that were admitted."""
    rng = random.Random(seed)
    of = admission(Caps(slots), {t: Share(w) for t, w in weights.items()})
    claims = [claim for task in weights for _ in range(150) for claim in ask(of, task, rng.randint(1, largest))]
    now, served = 0.0, Counter[str]()
    ends = [(duration(rng, claim.tokens), i, claim) for i, claim in enumerate(claims) if claim.held]
    heapq.heapify(ends)
    for i in range(len(claims), 2 * len(claims)):
        if not all(of.waiting(task) for task in weights):
            break
        now, _, ended = heapq.heappop(ends)
        for claim in of.release([ended]):
            served[claim.task] += claim.tokens
            heapq.heappush(ends, (now + duration(rng, claim.tokens), i, claim))
    return served


def _assert_apart(served: Counter[str], weights: dict[str, float], bound: Callable[[str, str], float]) -> None:
    for i in weights:
        for j in weights:
            assert abs(served[i] / weights[i] - served[j] / weights[j]) <= bound(i, j)


def test_answer_larger_than_a_cap_goes_beside_others_and_lets_others_go_beside_it() -> None:
    of = admission(Caps(None, 1000))
    small = ask(of, "a", *[100] * 16)
    assert [claim.held for claim in small] == [True] * 10 + [False] * 6
    (large,) = ask(of, "b", 50_000)
    of.release(small[:4])
    assert not large.held
    assert not any(claim.held for claim in small[10:]), "smaller answers do not pass it once it has its turn"
    of.release(small[4:5])
    assert large.held
    of.release(small[5:7])
    assert sum(claim.held for claim in small[10:]) == 2


def test_tokens_in_flight_stay_within_the_cap_where_no_answer_is_over_half_of_it() -> None:
    of = admission(Caps(None, 1000))
    claims = ask(of, "a", *[400] * 3)
    assert [claim.held for claim in claims] == [True, True, False]
    of.release(claims[:1])
    assert claims[2].held


def test_turn_of_an_answer_that_leaves_goes_to_the_others() -> None:
    of = admission(Caps(None, 1000))
    ask(of, "a", *[300] * 3)
    (large,), small = ask(of, "b", 500), ask(of, "c", 100)
    assert not small[0].held, "the large answer has the turn"
    assert of.release([large]) == small


def test_answer_that_waits_while_its_task_s_cap_is_lowered_goes_alone() -> None:
    shares = {"a": Share(1.0, Caps(None, 1000))}
    of = admission(Caps(8), shares)
    first, second = ask(of, "a", 500, 500, 400), ask(of, "b", 1)
    shares["a"] = Share(1.0, Caps(None, 10))
    (late,) = ask(of, "a", 400)
    assert late.tokens == 5
    of.release(first[:2])
    assert first[2].held
    assert not late.held
    of.release(first[2:])
    assert late.held
    assert second[0].held


def test_request_for_many_answers_takes_turns_with_other_requests_of_its_task() -> None:
    of = admission(Caps(8))
    wide = ask(of, "a", *[10] * 128)
    (single,) = ask(of, "a", 10)
    of.release([wide[0]])
    of.release([wide[1]])
    assert single.held
    assert sum(claim.held for claim in wide) == 7


def test_request_for_many_answers_holds_a_few_slots_at_once_where_there_is_no_cap() -> None:
    of = FairQueue(Caps(), 1, lambda task: Share(), at_once=2)
    many = ask(of, "a", *[1] * 5)
    others = ask(of, "a", 1, 1) + ask(of, "b", 1)
    assert all(claim.held for claim in others)
    assert ([claim.held for claim in many], of.waiting("a")) == ([True, True, False, False, False], 3)
    assert of.release([many[1]]) == [many[2]]
    assert of.release(many[:1] + many[2:3]) == many[3:]
    assert (of.requests, of.waiting("a")) == (5, 0)


@pytest.mark.invariant("I2")
def test_request_that_leaves_while_it_holds_all_that_it_may_leaves_nothing_behind() -> None:
    of = FairQueue(Caps(), 1, lambda task: Share(), at_once=2)
    many = ask(of, "a", *[1] * 5)
    assert of.release(many[3:]) == []
    assert of.waiting("a") == 1
    assert of.release(many) == []
    assert (of.requests, of.waiting("a")) == (0, 0)
    assert ask(of, "a", 1)[0].held


def test_queue_when_full_refuses_its_own_task_only() -> None:
    of = admission(Caps(1), queue_size=2)
    for _ in range(3):
        ask(of, "flood", 1)
    with pytest.raises(QueueFull):
        ask(of, "flood", 1)
    ask(of, "quiet", 1)
    assert (of.waiting("flood"), of.waiting("quiet")) == (2, 1)


def test_request_for_many_answers_fills_one_place_of_the_queue() -> None:
    of = admission(Caps(1), queue_size=2)
    ask(of, "a", 1)
    ask(of, "a", *[1] * 128)
    ask(of, "a", 1)
    with pytest.raises(QueueFull):
        ask(of, "a", 1)
    assert of.waiting("a") == 129


def test_request_that_can_begin_is_admitted_where_none_may_wait() -> None:
    of = admission(Caps(2), queue_size=0)
    assert [claim.held for claim in ask(of, "a", 9, 9, 9)] == [True, True, False]
    with pytest.raises(QueueFull):
        ask(of, "b", 9)
    assert of.waiting("b") == 0


def test_request_that_leaves_takes_none_of_its_own_slots() -> None:
    of = admission(Caps(2))
    request = ask(of, "a", 1, 1, 1, 1)
    other = ask(of, "b", 1)
    assert of.release(request) == other
    assert (of.requests, of.waiting("a")) == (1, 0)


@pytest.mark.parametrize("slots", [1, 3])
def test_tasks_that_waited_without_another_owe_it_nothing_when_it_comes(slots: int) -> None:
    weights = dict.fromkeys(["a", "b", "c"][:slots], 1.0)
    of = admission(Caps(slots))
    held = [claim for task in weights for claim in ask(of, task, *[300] * 300) if claim.held]
    for _ in range(200 * slots):
        held += of.release([held.pop(0)])
    late = ask(of, "late", *[300] * 40)
    for _ in range(20 * (slots + 1)):
        held += of.release([held.pop(0)])
    served = len(late) - of.waiting("late")
    assert abs(served - 20) <= 2, "an equal part of what was admitted since it came"


def test_queue_that_is_full_refuses_without_admitting_others() -> None:
    shares = {"a": Share(1.0, Caps(1))}
    of = admission(Caps(8), shares, queue_size=1)
    first, second = ask(of, "a", 1), ask(of, "a", 1)
    shares["a"] = Share(1.0, Caps(4))
    with pytest.raises(QueueFull):
        ask(of, "a", 1)
    assert not second[0].held, "nobody would be told"
    assert of.release(first) == second


def test_share_that_changes_applies_from_the_next_request_on() -> None:
    shares = {"a": Share(1.0), "b": Share(1.0)}
    of = admission(Caps(4), shares)
    a, b = ask(of, "a", *[1] * 40), ask(of, "b", *[1] * 40)
    shares["b"] = Share(3.0)
    b += ask(of, "b", 1)
    for _ in range(4):
        of.release([next(claim for claim in a if claim.held)])
    assert [sum(claim.held for claim in claims) for claims in (a, b)] == [1, 3]


def order(of: FairQueue, running: Claim, waiting: dict[str, Claim]) -> list[str]:
    """Release the answer that runs, and each that follows it; return the names of those in their order."""
    names, held = [], [running]
    while held:
        (claim,) = held
        held = of.release([claim])
        names += [name for name, waits in waiting.items() if waits in held]
    return names


def test_requests_that_continue_a_session_go_before_those_of_their_task_that_begin_one() -> None:
    of = admission(Caps(1))
    (running,) = ask(of, "a", 1)
    waiting = {"new 1": ask(of, "a", 1)[0], "new 2": ask(of, "a", 1)[0]}
    waiting |= {f"old {number}": ask(of, "a", 1, continues=True)[0] for number in (1, 2)}
    waiting["new 3"] = ask(of, "a", 1)[0]
    assert order(of, running, waiting) == ["old 1", "old 2", "new 1", "new 2", "new 3"]


def test_one_request_begins_a_session_after_so_many_that_continue_one() -> None:
    """Sessions that never end must not keep a new one out."""
    of = admission(Caps(1))
    (running,) = ask(of, "a", 1)
    waiting = {f"new {number}": ask(of, "a", 1)[0] for number in range(3)}
    waiting |= {f"old {number}": ask(of, "a", 1, continues=True)[0] for number in range(2 * MOST_CONTINUED + 1)}
    names = order(of, running, waiting)
    assert [names.index(f"new {number}") for number in range(3)] == [
        MOST_CONTINUED,
        2 * MOST_CONTINUED + 1,
        2 * MOST_CONTINUED + 3,
    ]


def test_request_that_continues_a_session_takes_nothing_from_other_tasks() -> None:
    of = admission(Caps(2))
    first = [ask(of, "a", 1)[0], ask(of, "b", 1)[0]]
    quiet = ask(of, "b", 1)[0]
    sessions = [ask(of, "a", 1, continues=True)[0] for _ in range(4)]
    # each of the two tasks is entitled to one slot
    assert of.release([first[1]]) == [quiet]
    assert of.release([first[0]]) == sessions[:1]


def test_request_that_continues_a_session_is_withdrawn_as_any_other() -> None:
    of = admission(Caps(1))
    (running,) = ask(of, "a", 1)
    new, old = ask(of, "a", 1)[0], ask(of, "a", 1, continues=True)[0]
    assert of.release([old]) == []
    assert of.waiting("a") == 1
    assert of.release([running]) == [new]


def test_answer_that_has_its_turn_keeps_it_before_a_smaller_one_that_continues_a_session() -> None:
    of = admission(Caps(None, 100))
    first, second = ask(of, "a", 40)[0], ask(of, "a", 40)[0]
    large = ask(of, "a", 50)[0]
    small = ask(of, "a", 10, continues=True)[0]
    assert not small.held
    assert of.release([first]) == [large, small]
    assert of.release([second, large, small]) == []
