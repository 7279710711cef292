"""The preparation of the comparison of systems with adapters."""

from __future__ import annotations

from pathlib import Path

from sun_sglang.bench.adapters.random_adapters import layer_sizes, write_adapters
from sun_sglang.bench.adapters.served import bench_arguments
from sun_sglang.bench.adapters.system_files import write_systems
from sun_sglang.bench.serving.peers.peer_file import load_peer_file
from sun_sglang.checkpoint.adapter.base_fit import read_base_layers, require_fits
from sun_sglang.checkpoint.adapter.read import read_adapter
from sun_sglang.topology_file import load_topology
from tests.support.adapters import write_base


def test_write_adapters_makes_adapters_of_the_base_that_all_differ_and_keeps_those_that_exist(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    first = write_adapters(layer_sizes(base), tmp_path / "many", 2, rank=3)
    before = [(folder / "adapter_model.safetensors").stat().st_mtime_ns for folder in first]
    folders = write_adapters(layer_sizes(base), tmp_path / "many", 4, rank=3)
    assert [(folder / "adapter_model.safetensors").stat().st_mtime_ns for folder in folders[:2]] == before
    found = [read_adapter(folder) for folder in folders]
    assert len({ref.revision for ref in found}) == 4
    assert {ref.rank for ref in found} == {3}
    for folder in folders:
        require_fits(folder, read_base_layers(base))


def test_write_systems_gives_every_system_the_same_tasks_and_no_absolute_path(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    adapters = write_adapters(layer_sizes(base), tmp_path / "many", 3, rank=2)
    sun, lora, plain = write_systems(tmp_path / "systems", base, adapters, slots=2, dtype="float32")
    topology, bare, peer = load_topology(sun), load_topology(plain), load_peer_file(lora)
    assert list(topology.tasks) == list(bare.tasks) == list(peer.tasks) == ["t000", "t001", "t002"]
    assert [task.adapter for task in topology.tasks.values()] == [str(a) for a in adapters]
    assert {task.adapter for task in bare.tasks.values()} == {None}
    assert topology.pools["shared"].engine == {"max_loras_per_batch": 3}
    assert peer.servers[0].adapters == {a.name: str(a) for a in adapters}
    assert not any(str(tmp_path) in file.read_text() for file in (sun, lora, plain))


def test_bench_arguments_of_the_user_replace_the_defaults() -> None:
    given = ["--zipf=3", "-o", "x.json", "--json"]
    arguments = bench_arguments([Path("a.yaml"), Path("b.yaml")], Path("result.json"), given)
    assert arguments[:3] == ["--compare", "a.yaml", "b.yaml"]
    assert "result.json" not in arguments
    assert not {"--zipf", "--output"} & set(arguments)
    assert arguments[arguments.index("--cores") + 1] == "prefill:0 decode:1"
