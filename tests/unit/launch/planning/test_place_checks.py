"""Tests of the checks that a topology fits its place, and of several machines in one plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from sun_sglang.errors import TopologyError, UserError
from sun_sglang.launch.planning.hardware.cluster import as_one
from sun_sglang.launch.planning.hardware.gpu_inventory import Gpu
from sun_sglang.launch.planning.hardware.machine import Machine
from sun_sglang.launch.planning.place_checks import chosen_place, require_place_runs
from sun_sglang.launch.planning.plan import LaunchPlan
from sun_sglang.launch.planning.planner import make_plan
from sun_sglang.launch.planning.preflight import preflight
from sun_sglang.topology import PlaceSettings, Topology
from sun_sglang.topology_file import parse_topology

RAY = PlaceSettings(kind="ray")
ONE = Machine(cores=4, memory=1 << 34)


def topology(pool: str = "", rest: str = "") -> Topology:
    text = f"""
pools: {{base: {{role: decode, model: none/base, {pool}}}, math: {{role: prefill, model: none/math}}}}
tasks: {{math: {{prefill: math, decode: base}}}}
backend: emulated
{rest}
"""
    return parse_topology(text, base=Path("/"))


def check(place: PlaceSettings, pool: str = "", rest: str = "") -> None:
    require_place_runs(place, preflight(topology(pool, rest), ONE, None).pools)


def test_place_is_a_name_or_a_mapping() -> None:
    assert topology().place == PlaceSettings()
    assert topology(rest="place: ray").place == RAY
    given = topology(rest="place: {kind: ray, address: '10.0.0.1:6379', labels: {zone: a}, room_timeout: 5}").place
    assert given == PlaceSettings(kind="ray", address="10.0.0.1:6379", labels={"zone": "a"}, room_timeout=5)
    with pytest.raises(TopologyError, match=r"^place\.kind: .*local.*ray"):
        topology(rest="place: slurm")
    with pytest.raises(TopologyError, match=r"^place\.adress: "):
        topology(rest="place: {kind: ray, adress: auto}")


def test_options_win_over_the_topologys_place() -> None:
    labelled = PlaceSettings(kind="ray", address="a:1", labels={"zone": "x"})
    assert chosen_place(labelled, None, None) == labelled
    assert chosen_place(labelled, "ray", "b:2") == labelled.model_copy(update={"address": "b:2"})
    assert chosen_place(labelled, "local", None) == PlaceSettings()
    assert chosen_place(PlaceSettings(), "ray", None) == RAY
    with pytest.raises(UserError, match="add `--place ray`"):
        chosen_place(PlaceSettings(), None, "auto")


@pytest.mark.parametrize(
    ("place", "pool", "rest", "message"),
    [
        (PlaceSettings(address="a:1"), "", "", "place: .* are for Ray; write `kind: ray`"),
        (RAY, "gpus: [0]", "", "pools.base.gpus: Ray assigns the GPUs"),
        (PlaceSettings(), "engine: {nnodes: 2}", "", "pools.base.engine.nnodes: .*; write `place: ray`"),
        (RAY, "engine: {nnodes: 2, tp_size: 3}", "", "pools.base.engine.nnodes: its 3 ranks cannot be divided among 2"),
        (RAY, "engine: {nnodes: 0.5}", "", "pools.base.engine.nnodes: must be a whole number"),
    ],
)
def test_setting_for_another_place_is_one_error(place: PlaceSettings, pool: str, rest: str, message: str) -> None:
    with pytest.raises(TopologyError, match=message):
        check(place, pool, rest)


def test_settings_that_fit_pass() -> None:
    check(PlaceSettings(), "engine: {nnodes: 1}")
    check(RAY, "engine: {nnodes: 2, tp_size: 4}")


def gpu(index: int) -> Gpu:
    return Gpu(index=index, uuid=f"u{index}", name="H100", memory_mb=80000)


def test_machines_are_planned_by_the_smallest_and_all_gpus() -> None:
    small = Machine(gpus=(gpu(0),), cores=4, memory=8, cpu_bf16=True, transfer_packages=frozenset({"nixl", "mooncake"}))
    large = Machine(gpus=(gpu(0), gpu(1)), cores=8, memory=9, transfer_packages=frozenset({"nixl"}))
    both = as_one([small, large])
    assert [g.index for g in both.gpus] == [0, 1, 2]
    assert (both.cores, both.memory, both.cpu_bf16, both.machines) == (4, 8, False, 2)
    assert both.transfer_packages == {"nixl"}
    assert as_one([large]) is large


def plan_of(machine: Machine) -> LaunchPlan:
    asked = topology("replicas: 3, engine: {tp_size: 2, nnodes: 2}")
    pools = preflight(asked, machine, None).pools
    return make_plan(asked, machine, pools, run_dir=Path("/run"), router_port=1)


def test_threads_are_a_share_of_all_cores_and_fit_one_machine() -> None:
    # 3 workers of 2 ranks, and one of one
    assert {w.threads for w in plan_of(ONE).workers} == {1}
    assert {w.threads for w in plan_of(ONE.model_copy(update={"machines": 4})).workers} == {2}
    assert {w.threads for w in plan_of(ONE.model_copy(update={"machines": 99})).workers} == {4}


def test_worker_plan_has_the_machines_that_it_spans() -> None:
    assert {w.pool: w.nodes for w in plan_of(ONE).workers} == {"base": 2, "math": 1}
