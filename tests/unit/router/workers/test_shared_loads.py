"""The load table that router processes share."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sun_sglang.contracts.fleet_file import MAX_WORKERS, Fleet, FleetWorker
from sun_sglang.processes import start_ticks
from sun_sglang.router.errors import ApiError
from sun_sglang.router.observability.log import Log
from sun_sglang.router.workers.fleet_edits import add_worker
from sun_sglang.router.workers.fleet_store import FleetStore
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.shared_loads import SharedLoads
from sun_sglang.router.workers.worker import Worker
from tests.unit.router.conftest import DEADLINES


def worker(name: str) -> Worker:
    return Worker(FleetWorker(name=name, pool="d", url="http://h:1"), "decode")


def two_processes(path: Path) -> list[tuple[SharedLoads, Worker]]:
    """Return the shared loads of two router processes, and each process's own object of one worker."""
    shared = [(SharedLoads(path, process, 2, DEADLINES), worker("a")) for process in range(2)]
    for loads, its_worker in shared:
        its_worker.load.share(loads)
    return shared


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
        # each process may add its workers in another order
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
    (one, mine), (_two, theirs) = two_processes(tmp_path / "t")
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
    (one, mine), (two, theirs) = two_processes(tmp_path / "t")
    mine.load.acquire(100)
    two.check_processes()
    assert theirs.load.router_total == (1, 100), "it is this process, which is there"
    with subprocess.Popen(["sleep", "600"]) as process:
        one._own[2], one._own[3] = process.pid, start_ticks(process.pid) or 0
        two.check_processes()
        assert theirs.load.router_total == (1, 100)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        two.check_processes()
        assert theirs.load.router_total == (0, 0), "also before its parent has noticed"
    two.check_processes()
    assert theirs.load.router_total == (0, 0)
    again = worker("a")
    again.load.share(SharedLoads(tmp_path / "t", 0, 2, DEADLINES))
    again.load.acquire(5)
    assert theirs.load.router_total == (1, 5), "the process that follows counts at once"


@pytest.mark.parametrize(("age", "counted"), [(0, (1, 100)), (1, (0, 0))])
def test_check_processes_without_a_free_descriptor_keeps_the_last_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: int, counted: tuple[int, int]
) -> None:
    (one, mine), (two, theirs) = two_processes(tmp_path / "t")
    mine.load.acquire(100)
    one._own[3] -= age
    two.check_processes()
    assert theirs.load.router_total == counted

    def read_text(path: Path, **_: Any) -> str:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    monkeypatch.setattr(Path, "read_text", read_text)
    two.check_processes()
    assert theirs.load.router_total == counted


def test_a_later_process_with_the_same_id_is_another(tmp_path: Path) -> None:
    (one, mine), (two, theirs) = two_processes(tmp_path / "t")
    mine.load.acquire(100)
    one._own[3] -= 1
    two.check_processes()
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
