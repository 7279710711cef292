from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from sun_sglang.errors import TopologyError
from sun_sglang.launch.planning.flags.engine_flags import to_argv
from sun_sglang.launch.planning.hardware.gpu_inventory import Gpu
from sun_sglang.launch.planning.hardware.machine import Machine
from sun_sglang.launch.planning.planner import make_plan
from sun_sglang.launch.planning.pool_settings import PoolSettings, pool_settings
from sun_sglang.launch.planning.pools import resolve_pools
from sun_sglang.launch.planning.worker_kinds.kinds import WORKER_KINDS
from sun_sglang.launch.planning.worker_kinds.worker_kind import WorkerKind
from sun_sglang.sglang_versions import SUPPORTED_VERSIONS
from sun_sglang.topology import Backend, Topology
from sun_sglang.topology_file import parse_topology

MACHINES = {
    "cpu": Machine(cores=8, memory=16 << 30),
    "gpus": Machine(
        cores=8,
        memory=16 << 30,
        gpus=tuple(Gpu(index=i, uuid=f"GPU-{i}", name="NVIDIA H200", memory_mb=143771) for i in range(4)),
    ),
}


@pytest.fixture(params=list(WORKER_KINDS.values()), ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> WorkerKind:
    found: WorkerKind = request.param
    return found


@pytest.fixture(params=list(MACHINES))
def machine(request: pytest.FixtureRequest) -> Machine:
    return MACHINES[request.param]


def topology_of(kind: WorkerKind, engine: str = "{}") -> Topology:
    text = f"""
pools:
  base: {{role: decode, model: org/base, replicas: 2}}
  math: {{role: prefill, model: org/math}}
tasks:
  math: {{prefill: math, decode: base}}
backend: {kind.name}
engine: {engine}
"""
    return parse_topology(text, base=Path("/nowhere"))


@pytest.fixture
def pool(kind: WorkerKind) -> PoolSettings:
    return pool_settings(topology_of(kind), "base")


def test_worker_kinds_have_one_entry_for_each_backend_of_a_topology() -> None:
    assert tuple(WORKER_KINDS) == get_args(Backend)
    assert all(kind.name == name for name, kind in WORKER_KINDS.items())


def test_module_of_a_kind_can_be_run(kind: WorkerKind) -> None:
    assert importlib.util.find_spec(kind.module) is not None


def test_kind_on_a_supported_installation_raises_nothing(kind: WorkerKind) -> None:
    kind.require_supported()


def test_sglang_version_of_a_kind_is_supported_or_unknown(kind: WorkerKind, pool: PoolSettings) -> None:
    assert kind.sglang_version(pool) in ("", *SUPPORTED_VERSIONS)


def test_find_checkpoint_of_an_id_that_is_not_in_the_cache_returns_none(
    kind: WorkerKind, pool: PoolSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert kind.find_checkpoint(pool) is None


def test_find_checkpoint_of_a_directory_returns_it(kind: WorkerKind, pool: PoolSettings, tmp_path: Path) -> None:
    assert kind.find_checkpoint(replace(pool, model=str(tmp_path))) == tmp_path


def test_kind_without_a_gpu_on_the_machine_uses_none(kind: WorkerKind, pool: PoolSettings) -> None:
    assert not kind.uses_gpu(pool, MACHINES["cpu"])


def test_kind_whose_user_asks_for_the_cpu_uses_no_gpu(kind: WorkerKind, machine: Machine) -> None:
    assert not kind.uses_gpu(pool_settings(topology_of(kind, "{device: cpu}"), "base"), machine)


def test_kv_memory_flags_with_more_caches_are_no_larger(kind: WorkerKind, machine: Machine) -> None:
    few, many = (kind.kv_memory_flags(None, machine, caches) for caches in (1, 100))
    assert few.keys() == many.keys()
    assert all(many[flag] <= few[flag] for flag in few)


def test_own_flags_of_a_kind_can_be_written_as_arguments(kind: WorkerKind, pool: PoolSettings) -> None:
    assert all(argument.isprintable() for argument in to_argv(kind.own_flags(pool)))


def test_resolved_pool_has_its_kinds_answers(kind: WorkerKind, machine: Machine) -> None:
    for pool in resolve_pools(topology_of(kind), machine, lambda *_: None).values():
        assert pool.kind is kind
        assert pool.uses_gpu == kind.uses_gpu(pool, machine)
        assert pool.gpus_per_worker == int(pool.uses_gpu)


def test_plan_of_a_kinds_workers_has_its_module_and_gpus(kind: WorkerKind, machine: Machine, tmp_path: Path) -> None:
    topology = topology_of(kind)
    pools = resolve_pools(topology, machine, lambda *_: None)
    plan = make_plan(topology, machine, pools, run_dir=tmp_path, router_port=8000)

    assert [worker.name for worker in plan.workers] == ["base-0", "base-1", "math-0"]
    assert {worker.module for worker in plan.workers} == {kind.module}
    assert {worker.forkable for worker in plan.workers} == {kind.forkable}
    assert {len(worker.gpus) for worker in plan.workers} == {int(kind.uses_gpu(pools["base"], machine))}


def test_tasks_whose_pools_are_of_different_kinds_are_refused() -> None:
    first, second = list(WORKER_KINDS.values())[:2]
    text = f"""
pools:
  base: {{role: decode, model: org/base, backend: {first.name}}}
  math: {{role: prefill, model: org/math, backend: {second.name}}}
tasks:
  math: {{prefill: math, decode: base}}
"""
    with pytest.raises(TopologyError, match=r"^tasks\.math: its pools have different backends"):
        parse_topology(text, base=Path("/nowhere"))
