"""Several router processes on one port: what they know of each other, and what a client sees of them as one."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sun_sglang.bench.polling import wait_until
from sun_sglang.bench.processes import router_command
from sun_sglang.contracts.fleet_file import MAX_WORKERS, Fleet, FleetWorker
from sun_sglang.contracts.tasks_report import PoolReport, TaskReport, TasksReport, UnprovenPath
from sun_sglang.processes import start_ticks
from sun_sglang.router.api.merging import merge_metrics, merge_tasks
from sun_sglang.router.app import Router
from sun_sglang.router.errors import ApiError
from sun_sglang.router.observability.log import Log
from sun_sglang.router.workers.fleet_edits import add_worker
from sun_sglang.router.workers.fleet_store import FleetStore
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.shared_loads import SharedLoads
from sun_sglang.router.workers.worker import Worker
from tests.support.ports import PORTS
from tests.unit.router.conftest import DEADLINES
from tests.unit.router.fake_worker import FakeWorker, Fault, Rooms

ASK = {"model": "math", "input_ids": [5, 6, 7]}


def worker(name: str) -> Worker:
    return Worker(FleetWorker(name=name, pool="d", url="http://h:1"), "decode")


# --- the table ------------------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.integers(0, 2), st.sampled_from(["take", "give", "restart"]), st.sampled_from("abc"), st.integers(0, 9)
    ),
    max_size=60,
)


@given(STEPS)
def test_each_process_knows_what_all_have_on_a_worker(tmp_path_factory: Any, steps: list[Any]) -> None:
    path = tmp_path_factory.mktemp("loads") / "router.loads"

    def begin(process: int) -> dict[str, Worker]:
        shared, workers = SharedLoads(path, process, 3, DEADLINES), {}
        # the order in which a process comes to know its workers is its own
        for name in ("abc", "cab", "bca")[process]:
            workers[name] = worker(name)
            workers[name].load.share(shared)
        return workers

    processes = [begin(i) for i in range(3)]
    for process, what, name, tokens in steps:
        mine = processes[process][name]
        if what == "take":
            mine.load.acquire(tokens)
        elif what == "give" and mine.load.requests:
            mine.load.release(mine.load.tokens if mine.load.requests == 1 else 0)
        elif what == "restart":
            processes[process] = begin(process)
        for one in "abc":
            total = sum(p[one].load.requests for p in processes), sum(p[one].load.tokens for p in processes)
            assert all(p[one].load.router_total == total for p in processes)


def test_a_process_that_ends_takes_its_counts_along(tmp_path: Path) -> None:
    one, two = (SharedLoads(tmp_path / "t", i, 2, DEADLINES) for i in range(2))
    mine, theirs = worker("a"), worker("a")
    mine.load.share(one)
    theirs.load.share(two)
    mine.load.acquire(100)
    assert theirs.load.total_tokens == 100
    theirs.load.set_external(0, 7)
    assert theirs.load.total_tokens == 107
    one.close()
    assert theirs.load.router_total == (0, 0)


def test_a_worker_that_reads_one_processs_long_prompts_is_excused_by_all(tmp_path: Path) -> None:
    one, two = (SharedLoads(tmp_path / "t", i, 2, DEADLINES) for i in range(2))
    mine, theirs, another = worker("a"), worker("a"), worker("b")
    mine.load.share(one)
    for each in (another, theirs):
        each.load.share(two)
    mine.load.note_body(1_000_000, 100.0)
    assert mine.load.is_tokenizing(103.5)
    assert theirs.load.is_tokenizing(103.5)
    assert not another.load.is_tokenizing(103.5)
    assert not theirs.load.is_tokenizing(104.5)
    one.close()
    assert not theirs.load.is_tokenizing(103.5)


def test_a_process_that_was_killed_counts_for_nothing_once_it_is_gone(tmp_path: Path) -> None:
    one, two = (SharedLoads(tmp_path / "t", i, 2, DEADLINES) for i in range(2))
    mine, theirs = worker("a"), worker("a")
    mine.load.share(one)
    theirs.load.share(two)
    mine.load.acquire(100)
    two.look()
    assert theirs.load.router_total == (1, 100), "it is this process, which is there"
    with subprocess.Popen(["sleep", "600"]) as process:
        one._own[2], one._own[3] = process.pid, start_ticks(process.pid) or 0
        two.look()
        assert theirs.load.router_total == (1, 100)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        two.look()
        assert theirs.load.router_total == (0, 0), "also before its parent has noticed"
    two.look()
    assert theirs.load.router_total == (0, 0)
    again = worker("a")
    again.load.share(SharedLoads(tmp_path / "t", 0, 2, DEADLINES))
    again.load.acquire(5)
    assert theirs.load.router_total == (1, 5), "the process that follows counts at once"


def test_a_later_process_with_the_same_id_is_another(tmp_path: Path) -> None:
    one, two = (SharedLoads(tmp_path / "t", i, 2, DEADLINES) for i in range(2))
    mine, theirs = worker("a"), worker("a")
    mine.load.share(one)
    theirs.load.share(two)
    mine.load.acquire(100)
    one._own[3] -= 1
    two.look()
    assert theirs.load.router_total == (0, 0)


def test_cells_of_a_worker_that_left_are_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sun_sglang.router.workers.shared_loads.MAX_WORKERS", 2)
    one, two = (SharedLoads(tmp_path / "t", i, 2, DEADLINES) for i in range(2))
    left = worker("w-0")
    left.load.share(one)
    left.load.acquire(1)
    for i in range(1, 100):
        mine, theirs = worker(f"w-{i}"), worker(f"w-{i}")
        theirs.load.share(two)
        mine.load.share(one)
        mine.load.acquire(i)
        left.load.unshare()
        left.load.release(0)  # a request of a worker that has left ends late
        assert theirs.load.router_total == (1, i)
        theirs.load.unshare()
        left = mine


def test_a_worker_beyond_the_table_is_served_and_counted_by_its_own_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sun_sglang.router.workers.shared_loads.MAX_WORKERS", 1)
    one, two = (SharedLoads(tmp_path / "t", i, 2, DEADLINES) for i in range(2))
    for name in ("a", "b"):
        mine, theirs = worker(name), worker(name)
        mine.load.share(one)
        theirs.load.share(two)
        mine.load.acquire(3)
        assert mine.load.router_total == (1, 3)
        assert theirs.load.router_total == ((1, 3) if name == "a" else (0, 0))


@pytest.mark.parametrize(("count", "fits"), [(MAX_WORKERS, True), (MAX_WORKERS + 1, False)])
def test_a_fleet_of_more_workers_than_the_table_holds_is_refused(count: int, fits: bool) -> None:
    fleet = {
        "tasks": {"math": {"prefill": "p", "decode": "d"}},
        "pools": {"p": {"role": "prefill", "model": "x"}, "d": {"role": "decode", "model": "x"}},
        "workers": [{"name": f"w-{i}", "pool": "p", "url": "http://h:1"} for i in range(count)],
    }
    if fits:
        registry = Registry(Fleet.model_validate(fleet))
        change = add_worker(FleetWorker(name="one-more", pool="p", url="http://h:2"))
        with pytest.raises(ApiError, match="4097 are over 4096") as e:
            asyncio.run(FleetStore(registry, None, Log(io.StringIO()), DEADLINES).edit(change))
        assert e.value.status == 400
    else:
        with pytest.raises(ValidationError, match="4097 are over 4096"):
            Fleet.model_validate(fleet)


# --- merging --------------------------------------------------------------------------------------------------------


def tasks_report(ready: bool, in_flight: int, unproven: tuple[UnprovenPath, ...] = ()) -> TasksReport:
    side = PoolReport(pool="p", model="m", workers=())
    task = TaskReport(
        ready=ready,
        prefill=side,
        decode=side,
        paths=(),
        unproven_paths=unproven,
        queued=1,
        in_flight=in_flight,
        namespace=None,
    )
    return TasksReport(ready=ready, draining=False, tasks={"math": task})


def test_tasks_are_ready_when_every_process_is() -> None:
    a, b = (UnprovenPath(prefill=name, decode="d", why="", times=0, refused=False) for name in "ab")
    assert merge_tasks(tasks_report(True, 1), []) == tasks_report(True, 1)
    merged = merge_tasks(tasks_report(True, 1, (a,)), [tasks_report(True, 2, (a, b)), tasks_report(False, 4)])
    assert not merged.ready
    math = merged.tasks["math"]
    assert (math.ready, math.in_flight, math.queued, math.unproven_paths) == (False, 7, 3, (a, b))
    assert not merge_tasks(tasks_report(True, 1), [None]).ready


def test_metrics_keep_their_families_and_get_a_process() -> None:
    page = b'# HELP a help\n# TYPE a gauge\na{x="1"} 2.0\n# HELP b help\n# TYPE b counter\nb_total 3.0\n'
    assert merge_metrics({0: page, 1: page}).decode().splitlines() == [
        "# HELP a help",
        "# TYPE a gauge",
        'a{process="0",x="1"} 2.0',
        'a{process="1",x="1"} 2.0',
        "# HELP b help",
        "# TYPE b counter",
        'b_total{process="0"} 3.0',
        'b_total{process="1"} 3.0',
    ]


# --- two routers on one port ----------------------------------------------------------------------------------------


class Two:
    """Two router processes' worth of routers in this process, on one port, over fake workers."""

    def __init__(self) -> None:
        self.rooms = Rooms()
        self.workers: dict[str, FakeWorker] = {}
        self.routers: list[Router] = []

    async def post(self, process: int, path: str, body: Any) -> tuple[int, Any]:
        """Ask one process, by its own socket."""
        connector = aiohttp.UnixConnector(self.routers[process].siblings.address(self.home / f"router-{process}.sock"))
        async with (
            aiohttp.ClientSession(connector=connector) as client,
            client.post(f"http://router{path}", json=body) as r,
        ):
            raw = await r.read()
            return r.status, orjson.loads(raw) if raw else None

    home: Path


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Two]:
    system = Two()
    system.home = tmp_path
    for name, role in (("math-0", "prefill"), ("base-0", "decode"), ("base-1", "decode")):
        system.workers[name] = FakeWorker(role, f"w-{name[:4]}", system.rooms)
        await system.workers[name].start()
    fleet = {
        "tasks": {"math": {"prefill": "math", "decode": "base"}},
        "pools": {"math": {"role": "prefill", "model": "m"}, "base": {"role": "decode", "model": "b"}},
        "workers": [{"name": n, "pool": n[:4], "url": w.url} for n, w in system.workers.items()],
        "router": {"port": next(PORTS), "processes": 2, "probe_interval": 0.05, "load_interval": 0},
    }
    path = tmp_path / "fleet.json"
    path.write_bytes(orjson.dumps(fleet))
    for process in range(2):
        system.routers.append(
            await Router.start(Fleet.model_validate(fleet), Log(io.StringIO()), path, process, DEADLINES)
        )
    await wait_until(lambda: not any(r.registry.unproven() or r.registry.unserved() for r in system.routers))
    yield system
    for router in system.routers:
        await router.stop(0.0)
    for worker in system.workers.values():
        await worker.stop()


async def test_one_process_leaves_alone_what_another_has_loaded(two: Two) -> None:
    for name in ("base-0", "base-1"):
        two.workers[name].fault = Fault(hang_after=2)
    held = []
    for process in (0, 1, 0, 1):
        held.append(asyncio.create_task(two.post(process, "/generate", {**ASK, "rid": f"r{len(held)}"})))
        await wait_until(lambda: sum(len(w.running) for w in two.workers.values()) >= len(held))
        await wait_until(lambda: sum(len(two.workers[f"base-{i}"].running) for i in range(2)) == len(held))
        counts = sorted(len(two.workers[f"base-{i}"].running) for i in range(2))
        assert counts[1] - counts[0] <= 1, "as one router would spread them"
    # any process ends a request, whichever has it
    for i in range(4):
        assert (await two.post(0, "/abort_request", {"rid": f"r{i}"}))[0] == 200
    assert [status for status, _ in await asyncio.gather(*held)] == [200] * 4
    for router in two.routers:
        await wait_until(
            lambda router=router: all(w.load.total_requests == 0 for w in router.registry.workers.values())
        )


async def test_what_is_asked_of_one_is_answered_for_both(two: Two) -> None:
    for process in (0, 1, 1):
        assert (await two.post(process, "/generate", ASK))[0] == 200
    async with aiohttp.ClientSession() as client:
        for _ in range(4):
            async with client.get(f"{two.routers[0].url}/metrics", headers={"Connection": "close"}) as r:
                page = await r.text()
            for process, count in ((0, 1.0), (1, 2.0)):
                assert f'sun_requests_total{{process="{process}",outcome="ok",task="math"}} {count}' in page
        async with client.get(f"{two.routers[0].url}/tasks") as r:
            assert (await r.json())["ready"]
    await two.routers[1].stop(0.0)
    # with connections of its own: an older one may be the other process's
    async with aiohttp.ClientSession() as client, client.get(f"{two.routers[0].url}/tasks") as r:
        assert not (await r.json())["ready"]


async def test_a_change_reaches_every_process(two: Two) -> None:
    assert (await two.post(0, "/workers/base-0/drain", None))[0] == 200
    await wait_until(lambda: all(r.registry.workers["base-0"].draining for r in two.routers))


def test_processes_share_a_port_and_drain(tmp_path: Path) -> None:
    fleet = {
        "tasks": {"math": {"prefill": "p", "decode": "d"}},
        "pools": {"p": {"role": "prefill", "model": "x"}, "d": {"role": "decode", "model": "x"}},
        "workers": [],
        "router": {"port": next(PORTS), "processes": 2},
    }
    path = tmp_path / "fleet.json"
    path.write_bytes(orjson.dumps(fleet))
    commands = [router_command(str(path), "--process", str(i)) for i in range(2)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    for process in running:
        assert process.stderr is not None
        assert orjson.loads(process.stderr.readline())["event"] == "listening"
    for process in running:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 0
