"""Properties of every policy, and the choice of each one."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sun_sglang.contracts.fleet_file import FleetWorker
from sun_sglang.router.protocol.request import Endpoint
from sun_sglang.router.scheduling.affinity import (
    LEAST_SHARE,
    LOAD_BOUND,
    MOVE_COST,
    PROMPTS_AHEAD,
    CacheAffinity,
    PrefixAffinity,
    load_bound,
    within_load_bound,
    worth_waiting,
)
from sun_sglang.router.scheduling.cost import Cost
from sun_sglang.router.scheduling.pair_selector import PairSelector
from sun_sglang.router.scheduling.policies import LeastTokens, make_policy
from sun_sglang.router.scheduling.policy_protocol import Policy
from sun_sglang.router.scheduling.prefix_keys import PrefixKeys, prefix_keys
from sun_sglang.router.workers.worker import Worker
from sun_sglang.router.workers.worker_paths import Pair
from sun_sglang.topology import DecodePolicy, Policies
from tests.unit.router.conftest import SUN, Start, System

DECODE = get_args(DecodePolicy)
PREFILL = (*DECODE, "prefix_affinity")
NAMES = [f"p{i}" for i in range(4)] + [f"d{i}" for i in range(4)]
KEYS = st.lists(st.integers(0, 5), max_size=3).map(tuple).map(PrefixKeys)
COSTS = st.builds(Cost, st.integers(0, 5000), st.integers(0, 5000))


def keys(*hashes: int) -> PrefixKeys:
    return PrefixKeys(hashes)


def worker(name: str, tokens: int = 0, requests: int = 0) -> Worker:
    role = "prefill" if name.startswith("p") else "decode"
    made = Worker(FleetWorker(name=name, pool=role, url="http://h:1"), role)
    made._set(incarnation=name)
    made.load.acquire(tokens)
    made.load.release(0)
    for _ in range(requests):
        made.load.acquire(0)
    return made


@st.composite
def fleets(draw: st.DrawFn) -> list[Pair]:
    """Draw some of the pairs between some workers, each with some load."""
    workers = {n: worker(n, draw(st.integers(0, 9000)), draw(st.integers(0, 9))) for n in NAMES}
    names = draw(
        st.lists(st.tuples(st.sampled_from(NAMES[:4]), st.sampled_from(NAMES[4:])), min_size=1, max_size=8, unique=True)
    )
    return [Pair(workers[p], workers[d]) for p, d in names]


def selector(prefill: str = "least_tokens", decode: str = "least_tokens", seed: int = 0) -> PairSelector:
    return PairSelector(Policies.model_validate({"prefill": prefill, "decode": decode}), random.Random(seed))


def names(pair: Pair | None) -> tuple[str, str]:
    assert pair is not None
    return pair.prefill.name, pair.decode.name


@given(
    fleets(), st.sampled_from(PREFILL), st.sampled_from(DECODE), st.lists(st.tuples(COSTS, KEYS), min_size=1), st.data()
)
def test_only_given_pairs_are_chosen_and_twice_the_same_with_a_seed(
    pairs: list[Pair], prefill: str, decode: str, requests: list[tuple[Cost, tuple[int, ...]]], data: st.DataObject
) -> None:
    """A pair that is not proven is never put together from two others that are."""
    one, two = selector(prefill, decode, 7), selector(prefill, decode, 7)
    avoid = data.draw(st.sets(st.sampled_from(NAMES)))
    for cost, keys in requests:
        chosen = one.select(pairs, cost, keys, avoid)
        assert chosen in pairs
        assert chosen == two.select(pairs, cost, keys, avoid)


@given(fleets(), st.sampled_from(PREFILL), st.sampled_from(DECODE), st.sets(st.sampled_from(NAMES)), KEYS)
def test_a_failed_worker_is_taken_again_only_where_there_is_no_other(
    pairs: list[Pair], prefill: str, decode: str, avoid: set[str], keys: PrefixKeys
) -> None:
    chosen = selector(prefill, decode).select(pairs, Cost(1, 1), keys, avoid)
    assert chosen is not None
    failed = [sum(w.name in avoid for w in pair) for pair in pairs]
    assert sum(w.name in avoid for w in chosen) == min(failed)


@given(fleets(), st.sampled_from(PREFILL), st.sets(st.sampled_from(NAMES)), st.sampled_from(NAMES[:4]), KEYS)
def test_prefill_worker_that_has_the_prompt_is_chosen_unless_it_failed(
    pairs: list[Pair], prefill: str, avoid: set[str], holder: str, keys: PrefixKeys
) -> None:
    chosen = selector(prefill).select(pairs, Cost(1, 1), keys, avoid, holder)
    assert chosen in pairs
    failed = [sum(w.name in avoid for w in pair) for pair in pairs]
    left = [pair for pair, count in zip(pairs, failed, strict=True) if count == min(failed)]
    if any(pair.prefill.name == holder for pair in left):
        assert chosen.prefill.name == holder
    else:
        assert chosen in left


def test_no_pair_no_choice() -> None:
    assert selector().select((), Cost(1, 1)) is None


LOADED = [worker("d0", 500, 1), worker("d1", 100, 9), worker("d2", 300, 3)]


@pytest.mark.parametrize(("policy", "name"), [("least_tokens", "d1"), ("least_requests", "d0")])
def test_the_least_loaded(policy: str, name: str) -> None:
    assert make_policy(policy, "decode", random.Random(0)).pick(LOADED, 1, keys()).name == name


def test_work_from_elsewhere_counts() -> None:
    workers = [worker("d0", 100), worker("d1", 200)]
    workers[0].load.set_external(0, 150)
    assert LeastTokens().pick(workers, 1, keys()).name == "d1"


@pytest.mark.parametrize("policy", ["round_robin", "least_tokens", "least_requests"])
def test_equals_take_turns(policy: str) -> None:
    workers = [worker(f"d{i}") for i in range(3)]
    chosen = []
    for turn in range(6):
        one = make_policy(policy, "decode", random.Random(0)).pick(workers, 1, keys())
        one.note_pick(turn + 1)
        chosen.append(one.name)
    assert chosen == ["d0", "d1", "d2"] * 2


def test_random_reaches_everyone_and_power_of_two_never_the_most_loaded() -> None:
    seen = Counter(make_policy("random", "decode", random.Random(i)).pick(LOADED, 1, keys()).name for i in range(200))
    assert set(seen) == {"d0", "d1", "d2"}
    seen = Counter(
        make_policy("power_of_two", "decode", random.Random(i)).pick(LOADED, 1, keys()).name for i in range(200)
    )
    assert set(seen) == {"d1", "d2"}
    assert seen["d1"] > seen["d2"]
    assert make_policy("power_of_two", "decode", random.Random(0)).pick(LOADED[:1], 1, keys()).name == "d0"


# --- affinity -------------------------------------------------------------------------------------------------------

STEPS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4000), st.booleans()), min_size=1, max_size=60)


def picks(policy: Policy, steps: Sequence[tuple[int, int, bool]]) -> Iterator[tuple[list[Worker], int, Worker]]:
    """Yield the workers, the cost and the pick of each step before its load counts; some steps end one first."""
    workers = [worker(f"p{i}") for i in range(4)]
    running: list[tuple[Worker, int]] = []
    for key, cost, ends in steps:
        if ends and running:
            gone, freed = running.pop(0)
            gone.load.release(freed)
        chosen = policy.pick(workers, cost, keys(key))
        yield workers, cost, chosen
        chosen.load.acquire(cost)
        running.append((chosen, cost))


@given(STEPS)
def test_cache_affinity_keeps_the_bound_on_load(steps: list[tuple[int, int, bool]]) -> None:
    """A worker that is chosen for affinity has less than the bound; any other chosen worker has the least load."""
    policy = CacheAffinity(LeastTokens(), within_load_bound)
    for workers, cost, chosen in picks(policy, steps):
        least = min(w.load.total_tokens for w in workers)
        assert chosen.load.total_tokens < load_bound(workers, cost) or chosen.load.total_tokens == least
        assert chosen.load.total_tokens < LOAD_BOUND * (sum(w.load.total_tokens for w in workers) + cost) / len(workers)


@given(STEPS)
def test_conversation_never_waits_for_more_than_its_move_costs(steps: list[tuple[int, int, bool]]) -> None:
    policy = CacheAffinity(LeastTokens(), worth_waiting)
    for workers, cost, chosen in picks(policy, steps):
        assert chosen.load.total_tokens - min(w.load.total_tokens for w in workers) <= MOVE_COST / LEAST_SHARE * cost


@pytest.mark.parametrize(
    ("held", "prompt", "most"),
    [
        # of 1,100 tokens 100 are new, so those ahead are taken to compute an eleventh: 2 x 1,000 x 11
        (1000, 1100, 22_000),
        # nearly all is held: the transfer of a prompt counts as a sixteenth of it
        (1000, 1000, 32_000),
        # the half is held: 2 x 500 x 2
        (500, 1000, 2_000),
        # a short part of a long prompt
        (10, 1000, 20),
        # the prompt is shorter than what its worker has
        (9000, 1000, 32_000),
    ],
)
def test_conversation_waits_while_its_worker_computes_the_rest_sooner_than_another_one_all(
    held: int, prompt: int, most: int
) -> None:
    home, other = worker("p0", 7_000), worker("p1", 7_000)
    assert worth_waiting(home, [home, other], prompt, held)
    home.load.set_external(0, most)
    assert worth_waiting(home, [home, other], prompt, held)
    home.load.set_external(0, most + 2)
    assert not worth_waiting(home, [home, other], prompt, held)
    other.load.set_external(0, 2)
    assert worth_waiting(home, [home, other], prompt, held)


def test_conversations_on_busy_prefill_workers_stay_and_new_ones_go_to_the_least_busy() -> None:
    """A bound on the load would move some of them in turn, and each move is more load."""
    policy = make_policy("cache_affinity", "prefill", random.Random(0))
    workers = [worker(f"p{i}") for i in range(4)]
    homes = {}
    for key in range(40):
        homes[key] = policy.pick(workers, 1000, keys(key))
        homes[key].load.acquire(1000)
    assert Counter(home.name for home in homes.values()) == {f"p{i}": 10 for i in range(4)}
    # ten prompts more than the others have: 1.75 times the mean
    workers[0].load.acquire(10 * 1000)
    assert all(policy.pick(workers, 1100, keys(key)) is home for key, home in homes.items())


def test_prompts_that_share_a_short_beginning_count_as_holding_no_more_than_that() -> None:
    """Under one key there may be prompts that go on in other ways: a system prompt, and one of many questions."""
    policy = make_policy("cache_affinity", "prefill", random.Random(0))
    workers = [worker(f"p{i}") for i in range(2)]
    system, session = PrefixKeys((1,), (100,)), PrefixKeys((2,))
    homes = [policy.pick(workers, 1000, key) for key in (system, session)]
    # one prompt that is ahead costs less than the 1,000 tokens of a session, and more than 100
    for home in homes:
        home.load.acquire(1000)
    others = [next(w for w in workers if w is not home) for home in homes]
    for other in others:
        other.load.release(1000)
    assert policy.pick(workers, 1000, system) is not homes[0]
    assert policy.pick(workers, 1000, session) is homes[1]


@given(STEPS)
def test_prefix_affinity_keeps_the_bound_on_load_or_on_the_lead(steps: list[tuple[int, int, bool]]) -> None:
    policy = PrefixAffinity(LeastTokens())
    for workers, cost, chosen in picks(policy, steps):
        lead = chosen.load.total_tokens - min(w.load.total_tokens for w in workers)
        assert chosen.load.total_tokens < load_bound(workers, cost) or lead < PROMPTS_AHEAD * cost


def test_a_prefix_stays_where_few_prompts_are_ahead_and_spills_to_one_worker_beyond() -> None:
    """At a low load the bound is below one prompt: the context would be computed again on another worker each time."""
    policy = PrefixAffinity(LeastTokens())
    workers = [worker(f"p{i}") for i in range(4)]
    home = policy.pick(workers, 100, keys(7))
    for _ in range(PROMPTS_AHEAD):
        assert policy.pick(workers, 100, keys(7)) is home
        home.load.acquire(100)
    second = policy.pick(workers, 100, keys(7))
    assert second is not home
    second.load.acquire(100)
    assert policy.pick(workers, 100, keys(7)) is second
    # a prompt that costs more to compute again waits longer for its worker
    assert policy.pick(workers, 1_000, keys(7)) is home
    home.load.release(100)
    assert policy.pick(workers, 100, keys(7)) is home


def test_a_prefix_stays_on_a_busy_worker_where_all_are_busy() -> None:
    policy = PrefixAffinity(LeastTokens())
    workers = [worker(f"p{i}", 10_000) for i in range(4)]
    home = policy.pick(workers, 10, keys(7))
    home.load.acquire(2_000)
    assert policy.pick(workers, 10, keys(7)) is home
    home.load.acquire(2_000)
    assert policy.pick(workers, 10, keys(7)) is not home


def test_a_worker_that_returns_has_its_prefixes_again() -> None:
    policy = PrefixAffinity(LeastTokens())
    workers = [worker(f"p{i}") for i in range(4)]
    many = [keys(k) for k in random.Random(1).sample(range(1 << 60), 200)]
    before = [policy.pick(workers, 1, key).name for key in many]
    without = [policy.pick(workers[1:], 1, key).name for key in many]
    assert without != before
    returned = [*workers[1:], worker("p0")]
    assert [policy.pick(returned, 1, key).name for key in many] == before


def test_a_conversation_returns_unless_its_worker_is_over_the_bound() -> None:
    policy = CacheAffinity(LeastTokens(), within_load_bound)
    workers = [worker("d0"), worker("d1"), worker("d2")]
    first = policy.pick(workers, 100, keys(1))
    others = [w for w in workers if w is not first]
    for other in others:
        other.note_pick(-1)
    assert policy.pick(workers, 100, keys(1, 2)) is first
    assert policy.pick(workers, 100, keys(1, 2, 3)) is first
    assert policy.pick(workers, 100, keys(9)) is not first
    first.load.set_external(0, 10_000)
    moved = policy.pick(workers, 100, keys(1, 2, 3, 4))
    assert moved is not first
    first.load.set_external(0, 0)
    assert policy.pick(workers, 100, keys(1, 2, 3, 4, 5)) is moved


def test_a_conversation_whose_worker_left_goes_on_elsewhere() -> None:
    policy = CacheAffinity(LeastTokens(), within_load_bound)
    workers = [worker("d0"), worker("d1")]
    first = policy.pick(workers, 1, keys(1))
    rest = [w for w in workers if w is not first]
    assert policy.pick(rest, 1, keys(1, 2)) is rest[0]


def test_a_conversation_whose_worker_restarted_begins_anew() -> None:
    """Its cache is empty: nothing there is worth a wait."""
    policy = CacheAffinity(LeastTokens(), worth_waiting)
    workers = [worker("p0"), worker("p1")]
    first = policy.pick(workers, 1000, keys(1))
    first.load.acquire(500)
    assert policy.pick(workers, 1000, keys(1)) is first
    first._set(incarnation="another start")
    assert policy.pick(workers, 1000, keys(1)) is not first


def test_what_is_remembered_is_bounded() -> None:
    policy = CacheAffinity(LeastTokens(), worth_waiting, remembered=10)
    for key in range(1000):
        policy.pick([worker("d0")], 1, keys(key))
    assert len(policy) == 10


def test_a_worker_that_leaves_moves_only_its_own_prefixes() -> None:
    policy = PrefixAffinity(LeastTokens())
    workers = [worker(f"p{i}") for i in range(5)]
    many = [keys(k) for k in random.Random(0).sample(range(1 << 60), 500)]
    before = {key: policy.pick(workers, 1, key).name for key in many}
    after = {key: policy.pick(workers[:-1], 1, key).name for key in many}
    assert all(after[key] == name for key, name in before.items() if name != "p4")
    counts = Counter(before.values())
    assert len(counts) == 5
    assert max(counts.values()) < 3 * min(counts.values())


# --- what prompts have in common ------------------------------------------------------------------------------------


def keys_of(endpoint: Endpoint, body: dict[str, Any], **more: Any) -> tuple[int, ...]:
    return prefix_keys(endpoint, body, **({"of": "math@w"} | more)).hashes


def chat(*texts: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": t} for t in texts]}


def is_prefix(short: Sequence[int], long: Sequence[int]) -> bool:
    return list(long[: len(short)]) == list(short)


def test_the_next_turn_begins_with_all_of_this_one() -> None:
    assert is_prefix(keys_of(Endpoint.CHAT, chat("a", "b")), keys_of(Endpoint.CHAT, chat("a", "b", "c", "d")))
    assert not set(keys_of(Endpoint.CHAT, chat("a", "b"))) & set(keys_of(Endpoint.CHAT, chat("x", "b")))
    ids = list(range(600))
    assert is_prefix(
        keys_of(Endpoint.GENERATE, {"input_ids": ids}), keys_of(Endpoint.GENERATE, {"input_ids": ids + [7] * 900})
    )
    text = "word " * 500
    assert is_prefix(
        keys_of(Endpoint.COMPLETIONS, {"prompt": text}), keys_of(Endpoint.COMPLETIONS, {"prompt": text * 2})
    )


@given(st.integers(1, 160_000), st.integers(0, 2000))
@example(16_384, 1)
@example(155_648, 1)
def test_keys_of_a_prompt_are_the_first_keys_of_every_longer_one(length: int, more: int) -> None:
    whole = list(range(162_000))
    short = prefix_keys(Endpoint.GENERATE, {"input_ids": whole[:length]}, of="p")
    long = prefix_keys(Endpoint.GENERATE, {"input_ids": whole[: length + more]}, of="p")
    assert len(short.hashes) == len(short.tokens) <= 64
    if length >= 256:
        assert is_prefix(short.hashes, long.hashes)
        assert is_prefix(short.tokens, long.tokens)
        assert short.tokens[-1] <= length
        block = 256 if length < 8_192 else 1_024 if length < 24_576 else 8_192
        assert length - short.tokens[-1] < block or length > 155_648


def test_prompts_that_part_after_a_long_beginning_hold_that_beginning_alone() -> None:
    preamble = list(range(16_384))
    one, other = (
        prefix_keys(Endpoint.GENERATE, {"input_ids": preamble + [number] * 9000}, of="p") for number in (1, 2)
    )
    common = [tokens for a, b, tokens in zip(one.hashes, other.hashes, one.tokens, strict=True) if a == b]
    assert common[-1] == 16_384
    assert one.hashes[-1] != other.hashes[-1]


def test_text_counts_as_four_bytes_a_token_and_messages_as_whole_prompts() -> None:
    assert prefix_keys(Endpoint.COMPLETIONS, {"prompt": "é" * 1024}, of="p").tokens == (256, 512)
    assert prefix_keys(Endpoint.CHAT, chat("a", "b"), of="p").tokens == ()
    assert prefix_keys(Endpoint.GENERATE, {"text": "a"}, of="p", session="s").tokens == ()


def test_namespaces_have_nothing_in_common_and_a_session_is_its_name() -> None:
    body = {"text": "hi"}
    assert keys_of(Endpoint.GENERATE, body) != keys_of(Endpoint.GENERATE, body, of="tool@w")
    one = keys_of(Endpoint.GENERATE, body, session="s")
    assert one == keys_of(Endpoint.GENERATE, {"text": "other"}, session="s")
    assert one != keys_of(Endpoint.GENERATE, body, session="t")


@given(st.text(min_size=1, max_size=3000))
def test_keys_are_few_and_there_is_always_one(text: str) -> None:
    assert 1 <= len(keys_of(Endpoint.GENERATE, {"text": text})) <= 64
    assert len(keys_of(Endpoint.GENERATE, {"text": text * 100})) <= 64


# --- through the router ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [{"prefill": p, "decode": p} for p in DECODE] + [{"prefill": "prefix_affinity"}])
async def test_every_policy_serves(start: Start, policy: dict[str, str]) -> None:
    system: System = await start(SUN, {"math": 2, "tool": 2, "base": 2}, router={"policy": policy})
    for task in SUN:
        for stream in (False, True):
            async with system.client.post("/generate", json={"model": task, "text": "hi", "stream": stream}) as r:
                assert r.status == 200
                await r.read()
    await system.quiet()


async def test_a_session_stays_on_its_workers(start: Start) -> None:
    policy = {"prefill": "prefix_affinity", "decode": "cache_affinity"}
    system: System = await start({"math": ("math", "base")}, {"math": 3, "base": 3}, router={"policy": policy})
    for turn in range(6):
        await system.post("/generate", {"model": "math", "text": f"turn {turn}"}, headers={"X-Sun-Session": "s"})
        # a prefill leg may end after its answer, and what is left of it counts as load
        await system.quiet()
    for pool in ("math", "base"):
        assert sorted(len(system[f"{pool}-{i}"].requests) for i in range(3)) == [0, 0, 6]
