"""`backend: emulated` from the file to the processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from sun_sglang.emulator.settings import Settings, parse_settings
from sun_sglang.errors import TopologyError
from sun_sglang.launch.places.command import Command, command_at
from sun_sglang.launch.places.local.child import Child
from sun_sglang.launch.places.local.start_methods import MixedStart
from sun_sglang.launch.places.place import Address
from sun_sglang.launch.planning.hardware.gpu_inventory import Gpu
from sun_sglang.launch.planning.hardware.machine import Machine
from sun_sglang.launch.planning.plan import WorkerPlan
from sun_sglang.launch.planning.planner import make_plan
from sun_sglang.launch.planning.preflight import preflight
from sun_sglang.topology_file import parse_topology

FILE = """
pools:
  base: {role: decode, model: none/base, replicas: 2}
  math: {role: prefill, model: none/math, emulated: {heartbeat_interval: 1}}
tasks:
  math: {prefill: math, decode: base}
backend: emulated
emulated: {costs: costs.yaml, waiting_timeout: 7}
"""
MACHINE = Machine(cores=2, memory=1 << 34, gpus=(Gpu(index=0, uuid="GPU-0", name="x", memory_mb=1),))


def plan_of(text: str, tmp_path: Path) -> tuple[WorkerPlan, ...]:
    topology = parse_topology(text, base=tmp_path)
    found = preflight(topology, MACHINE, None)
    plan = make_plan(topology, MACHINE, found.pools, run_dir=tmp_path, router_port=8000)
    return plan.workers


def settings_at(worker: WorkerPlan, address: Address) -> Settings:
    return parse_settings(command_at(worker, address).argv)


def test_workers_get_what_the_file_says_and_no_gpu(tmp_path: Path) -> None:
    base, other, math = plan_of(FILE, tmp_path)
    assert {w.module for w in (base, other, math)} == {"sun_sglang.emulator.worker"}
    assert base.gpus == other.gpus == math.gpus == ()
    settings = settings_at(base, Address(host="127.0.0.1", port=9000))
    assert (settings.role, settings.port, settings.bootstrap_port) == ("decode", 9000, None)
    assert settings.emulation.costs == str(tmp_path / "costs.yaml")
    assert settings.emulation.waiting_timeout == 7
    assert settings.max_total_tokens is None, "the cost file says how much KV there is"
    own = settings_at(math, Address(host="127.0.0.1", port=9001, bootstrap_port=9999))
    assert own.emulation.heartbeat_interval == 1
    assert own.emulation.waiting_timeout == 300, "a pool's `emulated` takes the place of the file's"
    assert own.bootstrap_port == 9999


def test_an_engine_setting_reaches_the_emulation(tmp_path: Path) -> None:
    text = FILE + "engine: {max_total_tokens: 500, page_size: 16, dtype: float32}\n"
    settings = settings_at(plan_of(text, tmp_path)[0], Address(host="127.0.0.1", port=9000))
    assert settings.max_total_tokens == 500
    assert settings.engine == {"dtype": "float32", "page_size": "16"}


def test_first_token_of_an_emulated_pool_reaches_its_workers_alone(tmp_path: Path) -> None:
    base, _, math = plan_of(FILE.replace("heartbeat_interval: 1", "first_token: decode"), tmp_path)
    sides = [settings_at(w, Address(host="127.0.0.1", port=9000)).emulation.first_token for w in (base, math)]
    assert sides == ["prefill", "decode"]


def test_the_two_sides_of_a_task_have_one_backend() -> None:
    text = FILE.replace("model: none/math,", "model: none/math, backend: sglang,")
    with pytest.raises(TopologyError, match=r"tasks\.math: its pools have different backends"):
        parse_topology(text, base=Path())


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("backend: emulated", "backend: imagined", "backend"),
        ("waiting_timeout: 7", "waiting_timeout: 0", "emulated.waiting_timeout"),
        ("waiting_timeout: 7", "patience: 7", "emulated.patience"),
    ],
)
def test_a_wrong_setting_is_named(old: str, new: str, where: str) -> None:
    with pytest.raises(TopologyError) as caught:
        parse_topology(FILE.replace(old, new), base=Path())
    assert caught.value.where == where
    assert ("`waiting_timeout`" in str(caught.value)) == ("patience" in new), "an unknown key lists the known ones"


class Recorder:
    """A start method that starts nothing."""

    def __init__(self) -> None:
        self.did: list[str] = []

    async def open(self) -> None:
        self.did.append("open")

    async def start(self, command: Command) -> Child:
        self.did.append(command.name)
        return Child(0, _never())

    async def close(self) -> None:
        self.did.append("close")


async def _never() -> int:
    return 0


async def test_emulated_workers_need_no_fork_server(tmp_path: Path) -> None:
    workers = plan_of(FILE, tmp_path)
    sglang, emulated = Recorder(), Recorder()
    method = MixedStart(forkable=sglang, others=emulated)
    await method.open()
    for worker in workers:
        await (await method.start(command_at(worker, Address(host="127.0.0.1", port=1)))).wait()
    await method.close()
    assert sglang.did == []
    assert emulated.did == ["open", "base-0", "base-1", "math-0", "close"]
