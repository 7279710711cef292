"""The contract of each place. A new place is one line in `PLACES`."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest

from sun_sglang.bench.polling import wait_until
from sun_sglang.errors import LaunchError
from sun_sglang.launch.places.local.fork_start import ForkStart
from sun_sglang.launch.places.local.place import LocalPlace
from sun_sglang.launch.places.local.start_methods import StartMethod
from sun_sglang.launch.places.place import Needs, Place, Running, needs_of
from sun_sglang.launch.places.ray.place import RayPlace
from sun_sglang.launch.planning.hardware.machine import Machine
from sun_sglang.launch.planning.plan import WorkerPlan
from sun_sglang.launch.planning.planner import make_plan
from sun_sglang.launch.planning.preflight import preflight
from sun_sglang.processes import start_ticks
from sun_sglang.topology import PlaceSettings
from sun_sglang.topology_file import parse_topology

WITHIN_S = 60.0
REPOSITORY = Path(__file__).parents[3]
TOPOLOGY = """
pools: {base: {role: decode, model: none/base}, math: {role: prefill, model: none/math}}
tasks: {math: {prefill: math, decode: base}}
backend: emulated
emulated: {vocab_size: 1000}
"""
# Python runs it first in a worker: the worker then has a child, as SGLang's workers have
WITH_A_CHILD = """
import os, subprocess
if note := os.environ.pop("TEST_CHILD_NOTE", None):
    child = subprocess.Popen(["sleep", "600"])
    with open(note + ".partial", "w") as file:
        file.write(str(child.pid))
    os.rename(note + ".partial", note)
"""


class ForkingPlace(LocalPlace):
    """The local place with a fork server that forks emulated workers."""

    def _make_method(self) -> StartMethod:
        return ForkStart(self._logs / "fork-server.log", "tests.system.launch.emulating_fork_server")


PLACES: dict[str, Callable[[Path], Place]] = {
    "local, plain": lambda logs: LocalPlace(logs, "plain"),
    "local, fork": lambda logs: ForkingPlace(logs, "fork"),
    "ray": lambda logs: RayPlace(logs.parent, PlaceSettings(kind="ray")),
}


@pytest.fixture(params=PLACES.values(), ids=PLACES.keys())
async def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Place]:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    (tmp_path / "sitecustomize.py").write_text(WITH_A_CHILD)
    (tmp_path / "logs").mkdir()
    if request.param is PLACES["ray"]:
        request.getfixturevalue("ray_nodes")
    place: Place = request.param(tmp_path / "logs")
    await place.open()
    yield place
    await place.close()


@pytest.fixture
def workers(tmp_path: Path) -> tuple[WorkerPlan, ...]:
    """Return a decode and a prefill worker, emulated."""
    topology, machine = parse_topology(TOPOLOGY, base=tmp_path), Machine(cores=2, memory=1 << 34)
    pools = preflight(topology, machine, None).pools
    plan = make_plan(topology, machine, pools, run_dir=tmp_path, router_port=1)
    path = {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(REPOSITORY)))}
    return tuple(worker.model_copy(update={"env": worker.env | path}) for worker in plan.workers)


async def started(place: Place, worker: WorkerPlan) -> Running:
    return await place.start(await place.reserve(worker.name, needs_of(worker)), worker)


async def answers(running: Running) -> bool:
    try:
        async with aiohttp.ClientSession() as client, client.get(f"{running.address.url}/health") as reply:
            return reply.status == 200
    except aiohttp.ClientError:
        return False


async def output(running: Running, offset: int = 0) -> bytes:
    return b"".join([chunk async for chunk in running.logs(offset)])


async def ended(running: Running) -> int:
    async with asyncio.timeout(WITHIN_S):
        status = await running.wait()
        await running.wait_gone()
    return status


async def test_machines_of_a_place_are_known_before_a_plan(place: Place) -> None:
    machines = await place.machines()
    assert machines
    assert all(machine.cores >= 1 for machine in machines)


async def test_worker_listens_at_its_slots_address_in_each_start(place: Place, workers: tuple[WorkerPlan, ...]) -> None:
    _, math = workers
    slot = await place.reserve(math.name, needs_of(math))
    first = await place.start(slot, math)
    await wait_until(lambda: answers(first), "the first start answers", within=WITHIN_S)
    await first.send(signal.SIGKILL)
    assert await ended(first) == -signal.SIGKILL
    await slot.wait_free()
    second = await place.start(slot, math)
    await wait_until(lambda: answers(second), "the second start answers", within=WITHIN_S)
    assert slot.worker == math.name
    assert first.address.url == second.address.url == slot.address.url
    assert first.address.bootstrap_port != second.address.bootstrap_port, "decode workers must not meet the old start"
    assert None not in (first.address.bootstrap_port, second.address.bootstrap_port)
    assert first.pid != second.pid


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_sigkill_reaches_all_processes_of_a_start_and_sigterm_the_first(
    place: Place, workers: tuple[WorkerPlan, ...], tmp_path: Path, number: signal.Signals
) -> None:
    base, _ = workers
    note = tmp_path / "child"
    running = await started(place, base.model_copy(update={"env": base.env | {"TEST_CHILD_NOTE": str(note)}}))
    await wait_until(lambda: answers(running), "the worker answers", within=WITHIN_S)
    child = int(note.read_text())
    assert start_ticks(child) is not None
    await running.send(number)
    # before `wait_gone`, which kills what is left
    if number == signal.SIGKILL:
        await wait_until(lambda: start_ticks(child) is None, "the child has ended", within=WITHIN_S)
    else:
        assert await running.wait() == 0
        assert start_ticks(child) is not None
    assert await ended(running) == (0 if number == signal.SIGTERM else -number)
    assert start_ticks(child) is None
    await running.send(number)


async def test_start_that_fails_reports_its_exit_status_and_its_own_output(
    place: Place, workers: tuple[WorkerPlan, ...]
) -> None:
    base, _ = workers
    slot = await place.reserve(base.name, needs_of(base))
    outputs = []
    for value in ("one", "two"):
        failing = base.model_copy(update={"argv": (*base.argv, "--sim-waiting-timeout", value)})
        running = await place.start(slot, failing)
        assert await ended(running) > 0
        outputs.append(await output(running))
        await slot.wait_free()
    assert [b"one" in outputs[0], b"two" in outputs[0]] == [True, False]
    assert [b"one" in outputs[1], b"two" in outputs[1]] == [False, True]
    assert await output(running, 10) == outputs[1][10:]
    assert await output(running, -10) == outputs[1][-10:]
    assert await output(running, -(1 << 20)) == outputs[1]


async def test_worker_has_one_slot_until_it_is_released(place: Place) -> None:
    slot = await place.reserve("base-0", Needs(cpus=1))
    with pytest.raises(LaunchError, match="`base-0` has a slot already"):
        await place.reserve("base-0", Needs(cpus=1))
    other = await place.reserve("base-1", Needs(cpus=1))
    assert other.address.url != slot.address.url
    await place.release(slot)
    assert (await place.reserve("base-0", Needs(cpus=1))).worker == "base-0"


async def test_close_ends_the_workers_that_run(place: Place, workers: tuple[WorkerPlan, ...]) -> None:
    running = [await started(place, worker) for worker in workers]
    for one in running:
        await wait_until(lambda one=one: answers(one), "the worker answers", within=WITHIN_S)
    await place.close()
    assert [await ended(one) for one in running] == [-signal.SIGKILL, -signal.SIGKILL]


async def test_adopt_returns_running_workers_or_states_that_none_outlives_its_launcher(place: Place) -> None:
    try:
        assert await place.adopt() == {}
    except LaunchError as e:
        assert "end with their launcher" in str(e)  # noqa: PT017 - a place does one or the other
