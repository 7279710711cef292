"""Workers that die under a request."""

from __future__ import annotations

import asyncio

import pytest

from sun_sglang.bench.polling import wait_until
from tests.unit.router.conftest import PATIENCE_S, SUN, Start, System, set_deadlines
from tests.unit.router.fake_worker import FakeWorker, Fault, expected
from tests.unit.router.math_requests import ANSWER, IDS, MATH, STREAMS, ask, only_once, refuse


@pytest.fixture
async def sun(start: Start) -> System:
    """Start two tasks without failover, with two prefill workers each and two shared decode workers."""
    system: System = await start(SUN, {"math": 2, "tool": 2, "base": 2}, failover=False)
    return system


@pytest.mark.invariant("I5")
@STREAMS
@pytest.mark.parametrize("death", ["die", "replaced"])
@pytest.mark.parametrize("pool", ["math", "base"])
async def test_fault_02_07_request_under_which_a_worker_died_goes_to_no_other(
    sun: System, stream: bool, death: str, pool: str
) -> None:
    """It would kill every worker that gets it; the supervisor may have started the next process already."""
    both = [sun[f"{pool}-{i}"] for i in (0, 1)]
    for worker in both:
        worker.fault = Fault(**{death: True})
    reply = await refuse(sun, 502, stream)
    assert reply["error"]["code"] == "worker_died"
    assert "send it again" in reply["error"]["message"]
    assert sorted(len(worker.requests) for worker in both) == [0, 1]
    for worker in both:
        worker.fault = None
    await wait_until(lambda: sun.router.registry.usable("math"))
    assert await ask(sun, stream) == ANSWER
    assert await ask(sun, stream, model="tool") == expected("w-tool", "w-base", IDS, 4)
    assert sun.metric("sun_retries_total", task="math", leg="prefill") == 0
    assert sun.metric("sun_retries_total", task="math", leg="decode") == 0
    only_once(sun)


@pytest.mark.invariant("I5")
@STREAMS
@pytest.mark.parametrize("death", ["die", "replaced"])
async def test_request_under_which_decode_workers_die_goes_to_no_more_than_failover_allows(
    start: Start, stream: bool, death: str
) -> None:
    system: System = await start({"math": ("math", "base")}, {"math": 1, "base": 4}, router={"failover_attempts": 2})
    workers = [system[f"base-{i}"] for i in range(4)]
    for worker in workers:
        worker.fault = Fault(**{death: True})
    assert (await refuse(system, 502, stream))["error"]["code"] == "worker_died"
    assert sorted(len(worker.requests) for worker in workers) == [0, 1, 1, 1]
    assert system.metric("sun_replays_total", task="math", reason="gone") == 2
    assert system.metric("sun_retries_total", task="math", leg="decode") == 0
    only_once(system)


NO_PREFILL = b'{"error":{"message":"Lost connection with prefill instance (1.2.3.4)"}}'


def having(system: System, pool: str) -> FakeWorker:
    """Return the worker of a pool that has the request."""
    (worker,) = [w for name, w in system.workers.items() if name.startswith(pool) and w.requests]
    return worker


@STREAMS
@pytest.mark.parametrize("dead", [True, False])
@pytest.mark.parametrize("says", ["prefill", "decode"])
async def test_fault_02_07_the_other_leg_reports_a_death(sun: System, stream: bool, dead: bool, says: str) -> None:
    """Only where the worker has died is the request kept from the others."""
    now = asyncio.Event()
    silent, reporting = ("base", "math") if says == "prefill" else ("math", "base")
    report = Fault(status=500, body=NO_PREFILL if says == "decode" else b"{}", wait=now, times=1)
    hang = Fault(hang=True, times=1)
    for i in (0, 1):
        sun[f"{reporting}-{i}"].fault, sun[f"{silent}-{i}"].fault = report, hang
    asked = asyncio.create_task(refuse(sun, 502, stream) if dead else ask(sun, stream))
    await wait_until(lambda: any(w.requests for n, w in sun.workers.items() if n.startswith("math")))
    await wait_until(lambda: any(w.requests for n, w in sun.workers.items() if n.startswith("base")))
    if dead:
        having(sun, silent).vanish()
    now.set()
    answered = await asked
    if dead:
        assert answered["error"]["code"] == "worker_died"
    else:
        assert answered == ANSWER
        assert sun.metric("sun_retries_total", task="math", leg="prefill") == 1
    assert sum(len(sun[f"{silent}-{i}"].requests) for i in (0, 1)) == (1 if dead else 2)
    only_once(sun)


@pytest.mark.parametrize("busy", ["reads", "answers", ""])
async def test_worker_that_reads_a_long_prompt_or_answers_others_and_shows_no_card_is_not_ejected(
    small: System, busy: str
) -> None:
    """Its silence proves nothing: the request is not retried, and the other requests of the worker go on."""
    set_deadlines(small.router.dispatcher.client, liveness=0.01)
    small["math-0"].fault = Fault(status=500, times=1)
    small["base-0"].silent_cards = True
    worker = small.router.registry.workers["base-0"]
    if busy == "reads":
        worker.load._tokenizing_until = small.router.dispatcher.attempts.now() + PATIENCE_S
    elif busy:
        worker.note_progress(float("inf"))
    reply = await refuse(small, 502)
    assert reply["error"]["code"] == "worker_died"
    assert (worker.card is not None) == bool(busy)
    small["base-0"].silent_cards = False
    small["base-0"].go_on()


@STREAMS
async def test_fault_02_request_that_its_prefill_worker_had_finished_is_retried(sun: System, stream: bool) -> None:
    """The prefill worker dies afterwards, and of something else."""
    now = asyncio.Event()
    sun["base-0"].fault = sun["base-1"].fault = Fault(status=500, wait=now, times=1)
    asked = asyncio.create_task(ask(sun, stream))
    await wait_until(lambda: any(a.results["prefill"] for a in sun.router.dispatcher.attempts))
    having(sun, "math").vanish()
    now.set()
    assert await asked == ANSWER
    assert sun.metric("sun_retries_total", task="math", leg="decode") == 1


async def test_fault_12_a_request_in_flight_on_a_replaced_worker_ends_and_goes_to_no_other(sun: System) -> None:
    sun["base-0"].fault = sun["base-1"].fault = Fault(hang=True)
    asked = asyncio.create_task(sun.post("/generate", MATH))
    await wait_until(lambda: sun["base-0"].running or sun["base-1"].running)
    # a new process behind the same address, while the old connection stays open and silent
    having(sun, "base").restarts += 1
    status, reply = await asked
    assert (status, reply["error"]["code"]) == (502, "worker_died")
    assert sum(len(sun[name].requests) for name in ("base-0", "base-1")) == 1
    await sun.quiet()
