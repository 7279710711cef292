from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sun_sglang.errors import LaunchError, UserError
from sun_sglang.launch.places.command import Command, command_at
from sun_sglang.launch.places.local import place as local_place
from sun_sglang.launch.places.local.child import Child
from sun_sglang.launch.places.local.place import LocalPlace, example_commands
from sun_sglang.launch.places.place import Address, Needs, needs_of
from sun_sglang.launch.planning.plan import WorkerPlan


class Recorder:
    """A start method that starts nothing."""

    def __init__(self) -> None:
        self.commands: list[Command] = []

    async def open(self) -> None: ...

    async def start(self, command: Command) -> Child:
        self.commands.append(command)
        return Child(os.getpid(), _ended())

    async def close(self) -> None: ...


async def _ended() -> int:
    return 0


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(local_place, "MixedStart", lambda **_: recorder)
    return recorder


@pytest.fixture
def prefill(worker: WorkerPlan) -> WorkerPlan:
    return worker.model_copy(update={"name": "math-0", "role": "prefill"})


def place_with(ports: Iterator[int], taken: frozenset[int] = frozenset()) -> LocalPlace:
    return LocalPlace(Path("logs"), "plain", taken_ports=taken, ports=ports)


async def test_each_start_gets_new_ports_for_all_but_http(recorder: Recorder, prefill: WorkerPlan) -> None:
    place = place_with(iter(range(40000, 40010)))
    slot = await place.reserve("math-0", needs_of(prefill))
    first = await place.start(slot, prefill)
    second = await place.start(slot, prefill)
    assert slot.address == Address(host="127.0.0.1", port=40000)
    assert first.address == Address(host="127.0.0.1", port=40000, bootstrap_port=40001, nccl_port=40002)
    assert second.address == Address(host="127.0.0.1", port=40000, bootstrap_port=40003, nccl_port=40004)
    assert [command.argv for command in recorder.commands] == [
        ("--host", "127.0.0.1", "--port", "40000", "--nccl-port", nccl, "--disaggregation-bootstrap-port", bootstrap)
        for nccl, bootstrap in (("40002", "40001"), ("40004", "40003"))
    ]


async def test_decode_worker_gets_no_bootstrap_port(recorder: Recorder, worker: WorkerPlan) -> None:
    place = place_with(iter((40000, 40001)))
    slot = await place.reserve("base-0", needs_of(worker))
    started = await place.start(slot, worker)
    assert started.address == Address(host="127.0.0.1", port=40000, nccl_port=40001)


async def test_worker_with_several_copies_of_the_model_gets_no_nccl_port(
    recorder: Recorder, worker: WorkerPlan
) -> None:
    copies = worker.model_copy(update={"needs_nccl_port": False})
    place = place_with(iter((40000,)))
    slot = await place.reserve("base-0", needs_of(copies))
    await place.start(slot, copies)
    assert "--nccl-port" not in recorder.commands[0].argv


async def test_port_that_is_taken_is_given_to_no_worker(recorder: Recorder, prefill: WorkerPlan) -> None:
    place = place_with(iter((40000, 40001, 40002, 40003, 40004)), taken=frozenset({40000, 40002}))
    slot = await place.reserve("math-0", needs_of(prefill))
    started = await place.start(slot, prefill)
    assert started.address == Address(host="127.0.0.1", port=40001, bootstrap_port=40003, nccl_port=40004)


@pytest.mark.parametrize("count", [0, 1, 2])
async def test_too_few_ports_are_an_error(recorder: Recorder, prefill: WorkerPlan, count: int) -> None:
    place = place_with(iter(range(count)))
    with pytest.raises(LaunchError, match="not enough free ports"):
        await place.start(await place.reserve("math-0", needs_of(prefill)), prefill)
    assert recorder.commands == []


async def test_fork_of_a_worker_on_a_gpu_is_refused_before_any_start() -> None:
    place = LocalPlace(Path("logs"), "fork", ports=iter(range(40000, 40010)))
    with pytest.raises(UserError, match="--start fork: `math-0` runs on a GPU"):
        await place.reserve("math-0", Needs(cpus=1, gpus=1, devices=(0,)))


async def test_adopt_states_that_workers_end_with_their_launcher() -> None:
    with pytest.raises(LaunchError, match="workers of this machine end with their launcher"):
        await place_with(iter(())).adopt()


def test_example_commands_are_complete_and_take_no_port_of_the_machine(worker: WorkerPlan, prefill: WorkerPlan) -> None:
    decode, other = example_commands((worker, prefill))
    assert decode == command_at(worker, Address(host="127.0.0.1", port=30000, nccl_port=30001))
    assert other == command_at(prefill, Address(host="127.0.0.1", port=30002, bootstrap_port=30003, nccl_port=30004))
    assert decode.env["SGLANG_HOST_IP"] == "127.0.0.1"


def test_url_of_an_ipv6_host_has_brackets() -> None:
    assert Address(host="::1", port=8000).url == "http://[::1]:8000"
    assert Address(host="node-3", port=8000).url == "http://node-3:8000"
