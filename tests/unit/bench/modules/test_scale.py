"""The settings of the benchmark of 100 modules."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sun_sglang.bench.modules.emulated import topology
from sun_sglang.bench.modules.prefill_load import PrefillLoad
from sun_sglang.bench.modules.scale import UNITS, change_seconds, measure, share_table, systems
from sun_sglang.bench.modules.turns import COSTS
from sun_sglang.bench.report import new_report
from sun_sglang.sim.cost_model import load_costs
from sun_sglang.topology_file import load_topology


def test_change_takes_the_bytes_of_an_8b_model_over_the_bandwidth() -> None:
    assert change_seconds(25) == pytest.approx(0.642, abs=1e-3)
    assert change_seconds(0) == 0.0
    assert list(systems()) == [(4, 25), (4, 50), (8, 25), (8, 50), (16, 25), (16, 50), (0, 0)]


def test_systems_meet_equal_requests_and_the_table_has_each_of_them() -> None:
    load, costs = PrefillLoad(10, 1.5, 2.0, 1024, 10), load_costs(COSTS)
    runs = [measure(load, workers, bandwidth, costs, 2.0, 0) for workers, bandwidth in systems()]
    assert all(run.values.keys() == UNITS.keys() for run in runs)
    table = share_table(new_report("modules_scale", "", runs, UNITS))
    assert len(table.columns) == 2 + len(runs)


@pytest.mark.parametrize("workers", [0, 3])
def test_topology_of_the_points_in_real_time_is_valid(tmp_path: Path, workers: int) -> None:
    (tmp_path / "costs.yaml").write_text("{}")
    (tmp_path / "modules.yaml").write_text(yaml.safe_dump(topology(workers, 4)))
    found = load_topology(tmp_path / "modules.yaml")
    prefill = [pool for pool in found.pools.values() if pool.role == "prefill"]
    assert sum(pool.replicas for pool in prefill) == (workers or 4)
    assert len({task.model or found.pools[task.prefill].model for task in found.tasks.values()}) == 4
