"""Tests of the fleet file over a change of launchers."""

from __future__ import annotations

from pathlib import Path

from sun_sglang.contracts.fleet_file import Fleet, FleetPool, FleetTask, FleetWorker, load_fleet
from sun_sglang.launch.planning.kv_transfer import KvTransfer
from sun_sglang.launch.planning.plan import LaunchPlan, RouterPlan
from sun_sglang.launch.supervision.kept_fleet import kept_fleet, write_fleets
from sun_sglang.topology import Router
from tests.support.workers import decode_worker

POOLS = {"base": FleetPool(role="decode", model="m"), "math": FleetPool(role="prefill", model="m")}
TASK = FleetTask(prefill="math", decode="base")


def plan(run_dir: Path, port: int = 1, tasks: tuple[str, ...] = ("math",)) -> LaunchPlan:
    return LaunchPlan(
        run_dir=run_dir,
        workers=(decode_worker(run_dir),),
        router=RouterPlan(host="127.0.0.1", port=port, fleet=run_dir / "fleet.json", log=run_dir / "router.log"),
        transfer=KvTransfer(backend="x", reason=""),
        fleet=Fleet(tasks=dict.fromkeys(tasks, TASK), pools=POOLS, workers=(), router=Router(port=port)),
    )


def worker(name: str, port: int) -> FleetWorker:
    return FleetWorker(name=name, pool="base", url=f"http://127.0.0.1:{port}")


def test_tasks_and_workers_that_were_added_stay_while_the_plan_stays(tmp_path: Path) -> None:
    first = plan(tmp_path)
    assert kept_fleet(first.fleet, tmp_path) == first.fleet
    write_fleets(first.fleet, (worker("base-0", 2),), first)
    changed = load_fleet(tmp_path / "fleet.json")
    tasks = {**changed.tasks, "added": TASK}
    workers = (*changed.workers, worker("other", 3))
    write_fleets(changed.model_copy(update={"tasks": tasks, "workers": workers}), workers[:1], first)

    later = plan(tmp_path, port=9)
    kept = kept_fleet(later.fleet, tmp_path)
    assert list(kept.tasks) == ["math", "added"]
    assert kept.router.port == 9
    write_fleets(kept, (worker("base-0", 4),), later)
    written = load_fleet(tmp_path / "fleet.json")
    assert {w.name: w.url for w in written.workers} == {"base-0": "http://127.0.0.1:4", "other": "http://127.0.0.1:3"}


def test_changed_topology_is_served_as_planned(tmp_path: Path) -> None:
    first = plan(tmp_path)
    write_fleets(first.fleet, (), first)
    other = plan(tmp_path, tasks=("code",))
    assert kept_fleet(other.fleet, tmp_path) == other.fleet
