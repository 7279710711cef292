"""A prefill batch has one module's requests, on that module's weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sun_sglang.contracts.module import MODULES_VARIABLE, ModuleLimits, module_namespace
from sun_sglang.contracts.modules_report import Changes
from sun_sglang.files.shared_snapshot import SharedSnapshot, SnapshotWriter
from sun_sglang.module_turns.turns import Turns
from sun_sglang.patches.modules import turns
from sun_sglang.patches.modules.shared_files import (
    HOST_FILE_VARIABLE,
    SCHEDULED_FILE_VARIABLE,
    HostModules,
    ScheduledModules,
)
from sun_sglang.patches.modules.turns import build_of_one_module

OWN, A, B = (letter * 16 for letter in "0ab")
RUNNER = SimpleNamespace(device="cpu")


class Request:
    def __init__(self, name: str, module: str | None = None, tokens: int = 5) -> None:
        made_by = "pool@weights"
        self.name = name
        self.extra_key = made_by if module is None else module_namespace(made_by, module)
        self.origin_input_ids = [1] * tokens


class Scheduler:
    """SGLang's scheduler: a batch takes the first `size` requests of the queue, after a chunked one.

    Attributes:
        ran: the module that was loaded, and the names of the requests, of each batch.
    """

    def __init__(self, size: int = 10) -> None:
        self.waiting_queue: list[Request] = []
        self.chunked_req: Request | None = None
        self.tp_size = 1
        self.tp_worker = SimpleNamespace(model_runner=RUNNER)
        self.size = size
        self.ran: list[tuple[str, list[str]]] = []

    def build(self, _running: object) -> Any:
        taken, self.waiting_queue = self.waiting_queue[: self.size], self.waiting_queue[self.size :]
        reqs = [*([self.chunked_req] if self.chunked_req else []), *taken]
        batch = SimpleNamespace(reqs=reqs, extend_num_tokens=sum(len(r.origin_input_ids) for r in reqs))
        return SimpleNamespace(batch_to_run=batch if reqs else None)


class Worker:
    """A scheduler with the hook, and what the HTTP process tells it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.host, self.scheduled = SharedSnapshot("host"), SharedSnapshot("scheduled")
        monkeypatch.setenv(HOST_FILE_VARIABLE, self.host.path)
        monkeypatch.setenv(SCHEDULED_FILE_VARIABLE, self.scheduled.path)
        monkeypatch.setenv(MODULES_VARIABLE, ModuleLimits(host_bytes=1000).model_dump_json())
        monkeypatch.setattr(turns, "replace_weights", self._replace)
        monkeypatch.setattr(turns, "MappedModule", self._map)
        monkeypatch.setattr(turns.time, "monotonic", lambda: self.now)
        self.writer = SnapshotWriter(self.host.path)
        self.scheduler = Scheduler()
        self.loaded = OWN
        self.now = 100.0
        self.mapped: list[str] = []

    def hold(self, *revisions: str) -> None:
        content = HostModules(own=OWN, root="/copies", held=revisions)
        self.writer.write(content.model_dump_json().encode())

    def step(self) -> list[str]:
        """Build and run a batch; return the names of its requests."""
        plan = build_of_one_module(Scheduler.build, self.scheduler, None)
        names = [req.name for req in plan.batch_to_run.reqs] if plan.batch_to_run else []
        self.scheduler.ran.append((self.loaded, names))
        self.now += 0.1
        return names

    @property
    def report(self) -> ScheduledModules:
        return ScheduledModules.model_validate_json(self.scheduled.read())

    def _map(self, directory: Path, *, pinned: bool) -> Any:
        self.mapped.append(directory.name)
        return SimpleNamespace(name=directory.name, close=lambda: self.mapped.remove(directory.name))

    def _replace(self, runner: object, module: Any) -> None:
        assert runner is RUNNER
        self.loaded = module.name
        self.now += 0.5


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    return Worker(monkeypatch)


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[str]], None]:
    """Return a function that sets the modules that the policy chooses, one after the other."""

    def use(chosen: Sequence[str]) -> None:
        left = list(chosen)
        monkeypatch.setattr(Turns, "choose", lambda *_: left.pop(0))

    return use


def test_batches_have_one_module_and_the_queue_keeps_its_order(worker: Worker, choose: Callable[..., None]) -> None:
    worker.hold(OWN, A, B)
    choose([A, B, OWN])
    queue = [Request("1", A), Request("2"), Request("3", B), Request("4", A), Request("5")]
    worker.scheduler.waiting_queue = list(queue)
    assert worker.step() == ["1", "4"]
    assert [req.name for req in worker.scheduler.waiting_queue] == ["2", "3", "5"]
    assert worker.step() == ["3"]
    assert worker.step() == ["2", "5"]
    assert worker.scheduler.ran == [(A, ["1", "4"]), (B, ["3"]), (OWN, ["2", "5"])]


def test_requests_that_found_no_room_stay_where_they_were(worker: Worker, choose: Callable[..., None]) -> None:
    worker.hold(OWN, A)
    choose([A, A])
    worker.scheduler.size = 1
    worker.scheduler.waiting_queue = [Request("1"), Request("2", A), Request("3"), Request("4", A)]
    assert worker.step() == ["2"]
    assert [req.name for req in worker.scheduler.waiting_queue] == ["1", "3", "4"]
    assert worker.step() == ["4"]


@pytest.mark.invariant("I24")
def test_chunked_prompt_keeps_its_weights_until_it_is_done(worker: Worker, choose: Callable[..., None]) -> None:
    worker.hold(OWN, A)
    chunked = Request("long")
    worker.scheduler.chunked_req = chunked
    worker.scheduler.waiting_queue = [Request("1", A), Request("2")]
    # the policy is not asked
    choose([])
    assert worker.step() == ["long", "2"]
    assert worker.loaded == OWN
    worker.scheduler.chunked_req = None
    choose([A])
    assert worker.step() == ["1"]
    assert worker.loaded == A


def test_policy_is_asked_only_where_another_module_waits(worker: Worker, choose: Callable[..., None]) -> None:
    worker.hold(OWN, A)
    choose([])
    worker.scheduler.waiting_queue = [Request("1"), Request("2")]
    assert worker.step() == ["1", "2"]
    assert worker.step() == []


def test_worker_that_was_given_no_module_needs_no_help(worker: Worker) -> None:
    worker.scheduler.waiting_queue = [Request("1"), Request("2")]
    assert worker.step() == ["1", "2"]
    assert worker.scheduled.read() == b""


def test_worker_without_modules_is_left_alone(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MODULES_VARIABLE)
    worker.hold(OWN, A)
    worker.scheduler.waiting_queue = [Request("1", A), Request("2")]
    assert worker.step() == ["1", "2"]


@pytest.mark.invariant("I24")
def test_batch_of_two_modules_ends_the_scheduler(worker: Worker, choose: Callable[..., None]) -> None:
    worker.hold(OWN, A)
    choose([A])
    worker.scheduler.waiting_queue = [Request("1", A)]
    build = Scheduler.build

    def wrong(scheduler: Scheduler, running: object) -> Any:
        plan = build(scheduler, running)
        plan.batch_to_run.reqs.append(Request("2", B))
        return plan

    with pytest.raises(AssertionError, match="a batch needs one module"):
        build_of_one_module(wrong, worker.scheduler, None)


def test_report_counts_queues_changes_and_the_pace(worker: Worker, choose: Callable[..., None]) -> None:
    worker.hold(OWN, A)
    choose([A, OWN])
    worker.scheduler.waiting_queue = [Request("1", A), Request("2", tokens=20), Request("3")]
    worker.step()
    assert worker.report.loaded == A
    assert worker.report.queued == {OWN: 2}
    worker.step()
    worker.step()
    report = worker.report
    assert report.loaded == OWN
    assert report.queued == {}
    assert report.changed == {A: Changes(changes=1, seconds=0.5), OWN: Changes(changes=1, seconds=0.5)}
    assert report.change_seconds == pytest.approx(0.5)
    assert report.tokens_per_second > 0


def test_mapping_of_a_module_that_left_host_memory_is_closed(worker: Worker, choose: Callable[..., None]) -> None:
    worker.hold(OWN, A, B)
    choose([A, B])
    worker.scheduler.waiting_queue = [Request("1", A), Request("2", B)]
    worker.step()
    worker.step()
    assert sorted(worker.mapped) == [A, B]
    worker.hold(OWN, B)
    worker.step()
    assert worker.mapped == [B]


@pytest.mark.invariant("I24")
def test_request_whose_module_left_host_memory_waits_for_its_end(worker: Worker) -> None:
    worker.hold(OWN, A)
    worker.step()
    # its client left, its module gave way, and the scheduler will learn it with the next messages
    left = Request("left", A)
    worker.scheduler.waiting_queue = [left]
    worker.hold(OWN)
    assert worker.step() == []
    worker.scheduler.waiting_queue = [left, Request("1")]
    worker.now += 1000
    assert worker.step() == ["1"]
    assert (worker.loaded, worker.mapped, worker.scheduler.waiting_queue) == (OWN, [], [left])


def test_module_whose_copy_was_removed_meanwhile_is_not_loaded(
    worker: Worker, choose: Callable[..., None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def removed(directory: Path, *, pinned: bool) -> None:
        raise FileNotFoundError(directory)

    worker.hold(OWN, A)
    choose([A])
    monkeypatch.setattr(turns, "MappedModule", removed)
    worker.scheduler.waiting_queue = [Request("1", A), Request("2")]
    assert worker.step() == ["2"]
    assert worker.loaded == OWN
    assert "its copy cannot be mapped" in caplog.text


def test_other_ranks_load_what_the_first_rank_chose(
    worker: Worker, choose: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    sent: list[int] = []

    def broadcast(value: Any, src: int, group: str) -> None:
        assert (src, group) == (4, "cpu")
        if sent:
            value.fill_(sent[0])
        else:
            sent.append(int(value.item()))

    monkeypatch.setattr(torch.distributed, "broadcast", broadcast)
    worker.hold(OWN, A, B)
    for own_choice in (A, B):
        worker.scheduler = Scheduler()
        worker.scheduler.tp_size = 2
        worker.scheduler.tp_group = SimpleNamespace(first_rank=4, cpu_group="cpu")  # type: ignore[attr-defined]
        choose([own_choice])
        worker.scheduler.waiting_queue = [Request("1", A), Request("2", B)]
        assert worker.step() == ["1"], "the first rank chose A"


@pytest.mark.parametrize("revision", ["0" * 16, "f" * 16, "8000000000000000", "7fffffffffffffff"])
def test_every_revision_can_be_sent_between_ranks(
    worker: Worker, choose: Callable[..., None], monkeypatch: pytest.MonkeyPatch, revision: str
) -> None:
    import torch

    monkeypatch.setattr(torch.distributed, "broadcast", lambda value, src, group: None)
    worker.hold(OWN, revision)
    worker.scheduler.tp_size = 2
    worker.scheduler.tp_group = SimpleNamespace(first_rank=0, cpu_group="cpu")  # type: ignore[attr-defined]
    choose([revision])
    worker.scheduler.waiting_queue = [Request("1", revision), Request("2", B)]
    assert worker.step() == ["1"]
