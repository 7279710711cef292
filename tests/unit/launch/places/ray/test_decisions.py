"""What a place on Ray decides without a cluster: room, environments, addresses, versions, and which starts to adopt."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sun_sglang.errors import LaunchError, UserError
from sun_sglang.launch.places.place import Address, Needs, PlaceLostError, RefusedError
from sun_sglang.launch.places.ray.calls import answered
from sun_sglang.launch.places.ray.cluster import connect
from sun_sglang.launch.places.ray.host.node_ports import NodePorts
from sun_sglang.launch.places.ray.host.worker_host import HostState, StartState, running_starts, worker_environment
from sun_sglang.launch.places.ray.machines import require_versions
from sun_sglang.launch.places.ray.paths import paths_of
from sun_sglang.launch.places.ray.record import new_record, read_record, remove_record, write_record
from sun_sglang.launch.places.ray.room import bundles, describe_room, usable_nodes
from tests.support.workers import decode_worker


def node(
    address: str, *, alive: bool = True, labels: dict[str, str] | None = None, **resources: float
) -> dict[str, Any]:
    return {"NodeManagerAddress": address, "Alive": alive, "Resources": resources, "Labels": labels}


def test_worker_asks_for_its_gpus_on_each_of_its_machines() -> None:
    assert bundles(Needs(cpus=8)) == [{"CPU": 1.0}]
    assert bundles(Needs(cpus=8, gpus=2)) == [{"CPU": 1.0, "GPU": 2.0}]
    assert bundles(Needs(cpus=8, gpus=16, nodes=2)) == [{"CPU": 1.0, "GPU": 8.0}] * 2


def test_machines_without_cpus_or_labels_or_life_run_no_worker() -> None:
    nodes = [
        node("a", CPU=2, labels={"zone": "x", "more": "y"}),
        node("b", CPU=2),
        node("c", CPU=0, labels={"zone": "x"}),
        node("d", CPU=2, alive=False, labels={"zone": "x"}),
    ]
    assert [n["NodeManagerAddress"] for n in usable_nodes(nodes, {})] == ["a", "b"]
    assert [n["NodeManagerAddress"] for n in usable_nodes(nodes, {"zone": "x"})] == ["a"]


def test_missing_room_is_described_by_need_and_cluster() -> None:
    nodes = [node("a", CPU=2, GPU=1), node("b", CPU=4)]
    needed = bundles(Needs(cpus=1, gpus=4, nodes=2))
    assert describe_room(needed, nodes, {}) == (
        "it needs 2 machines with 1 CPU and 2 GPU each that no other worker holds; the cluster has "
        "a: 2 CPU and 1 GPU, b: 4 CPU and 0 GPU"
    )
    assert describe_room(needed, nodes, {"zone": "x"}).endswith("the cluster has labelled zone=x no machine")


def test_worker_inherits_its_machines_environment_without_rays_variables_and_clients_keys() -> None:
    environ = {"PATH": "/bin", "RAY_ADDRESS": "x", "SUN_API_KEYS": "secret", "CUDA_VISIBLE_DEVICES": "6"}
    own = {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "0"}
    assert worker_environment(environ, own, ("4", "5")) == {
        "PATH": "/bin",
        "OMP_NUM_THREADS": "2",
        "CUDA_VISIBLE_DEVICES": "4,5",
    }
    on_cpu = worker_environment(environ, {"CUDA_VISIBLE_DEVICES": ""}, ())
    assert on_cpu == {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": ""}


def test_port_of_another_host_of_the_machine_is_not_taken(tmp_path: Path) -> None:
    ports, others = NodePorts("127.0.0.1", tmp_path), NodePorts("127.0.0.1", tmp_path)
    mine = ports.take()
    others._free = iter((mine, mine + 1))
    theirs = others.take()
    assert theirs == mine + 1
    ports.give_back((mine, None, 1))
    with (tmp_path / str(mine)).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    others._free = iter(())
    with pytest.raises(LaunchError, match="not enough free ports"):
        others.take()


def test_directory_of_port_locks_belongs_to_its_user(tmp_path: Path) -> None:
    directory = tmp_path / "ports"
    NodePorts("127.0.0.1", directory).take()
    assert directory.stat().st_mode & 0o777 == 0o700
    assert directory.stat().st_uid == os.getuid()


def test_paths_of_a_worker_are_the_absolute_ones_that_exist_here(tmp_path: Path) -> None:
    model, adapter = tmp_path / "model", tmp_path / "adapter"
    model.mkdir()
    adapter.mkdir()
    argv = ("--model-path", str(model), "--lora-paths", f"a={adapter}", "--x", "/nowhere", "--y", "org/id")
    worker = decode_worker(tmp_path).model_copy(update={"argv": argv})
    assert paths_of(worker) == (str(model), str(adapter))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may raise a priority")
def test_low_priority_that_ray_gives_its_actors_is_undone() -> None:
    code = (
        "import os; os.nice(5)\n"
        "from sun_sglang.launch.places.ray.host.worker_host import take_usual_priority\n"
        "take_usual_priority(); print(os.getpriority(os.PRIO_PROCESS, 0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


def host(rank: int, ranks: int, start: StartState | None, plan: str = "p") -> HostState:
    address = Address(host="h", port=1)
    return HostState(worker="w", rank=rank, ranks=ranks, address=address, pid=1, group="", start=start, plan=plan)


def test_worker_is_adopted_if_all_its_ranks_run_the_plan() -> None:
    start = StartState(number=1, address=Address(host="h", port=1), pid=2)
    ended = start.model_copy(update={"has_ended": True})
    assert running_starts([host(0, 1, start)], "p") == (start,)
    assert running_starts([host(0, 2, start), host(1, 2, start)], "p") == (start, start)
    assert running_starts([host(0, 2, start)], "p") is None
    assert running_starts([host(0, 1, None)], "p") is None
    assert running_starts([host(0, 1, ended)], "p") is None
    assert running_starts([host(0, 1, start)], "another") is None


def test_other_versions_are_refused_by_machine_and_package() -> None:
    require_versions("10.0.0.2", {"sun-sglang": "1", "sglang": "2"}, {"sun-sglang": "1"})
    with pytest.raises(UserError, match=r"machine 10\.0\.0\.2 .* has sglang 1, and this machine has 2; install"):
        require_versions("10.0.0.2", {"sun-sglang": "1", "sglang": "1"}, {"sun-sglang": "1", "sglang": "2"})
    with pytest.raises(UserError, match="has sglang \\(none\\)"):
        require_versions("10.0.0.2", {"sun-sglang": "1"}, {"sun-sglang": "1", "sglang": "2"})


def test_record_is_kept_until_it_is_removed_and_a_broken_one_stops_the_launch(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None
    record = new_record("auto")
    assert record.namespace != new_record("auto").namespace
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record
    remove_record(tmp_path)
    remove_record(tmp_path)
    assert read_record(tmp_path) is None
    (tmp_path / "ray.json").write_text("{")
    with pytest.raises(LaunchError, match="cannot be read, so the workers that it names cannot be found"):
        read_record(tmp_path)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ray://head:10001", "an address of Ray Client or of a Ray job, which is not supported"),
        ("head", "no address of a Ray cluster; write `auto` or HOST:PORT"),
        ("127.0.0.1:1", "no Ray cluster answers at `127.0.0.1:1` .*; run `ray start --head`"),
        ("127.0.0.1:123456", "no Ray cluster answers"),
    ],
)
async def test_address_that_is_no_cluster_is_one_error(
    address: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(UserError, match=message):
        await connect(address)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            RuntimeError("Version mismatch: The cluster was\nstarted with: Ray: 2.9"),
            "versions .* differ: Version mismatch",
        ),
        (ConnectionError("Could not find any running Ray instance"), "no Ray cluster runs at `auto`; run `ray start"),
        (ValueError("no node here"), r"cannot connect to `auto` \(no node here\)"),
    ],
)
async def test_refused_connection_is_one_error(error: Exception, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(UserError, match=message):
        await connect("auto")


async def test_missing_ray_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'sun-sglang\[ray\]'"):
        await connect("auto")


async def test_answers_of_actors_are_a_places_errors() -> None:
    from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError

    raised: list[Exception | int] = []

    async def call() -> int:
        answer = raised.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    raised[:] = [ActorUnavailableError("unreachable", None), 7]
    assert await answered("w", call) == 7
    raised[:] = [ActorDiedError()]
    with pytest.raises(PlaceLostError, match="Ray has lost the actor of `w`"):
        await answered("w", call)
    raised[:] = [RayTaskError("f", "traceback", RefusedError("no model"))]
    with pytest.raises(RefusedError, match=r"^no model$"):
        await answered("w", call)
    raised[:] = [RayTaskError("f", "traceback", KeyError("x"))]
    with pytest.raises(LaunchError, match=r"the actor of `w` failed: KeyError\('x'\)"):
        await answered("w", call)
    raised[:] = [ActorUnavailableError("unreachable", None)] * 100
    with pytest.raises(LaunchError, match=r"has not started or reached the actor of `w` within 0\.01 s"):
        await answered("w", call, within=0.01)
