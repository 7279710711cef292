from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sun_sglang.bench.serving.peers.peer_file import PeerFile, is_peer_file, load_peer_file, plan_peer
from sun_sglang.errors import TopologyError, UserError
from sun_sglang.launch.planning.hardware.gpu_inventory import Gpu
from sun_sglang.launch.planning.hardware.machine import Machine
from sun_sglang.launch.planning.servers import ServersPlan

MACHINE = Machine(cores=8, memory=1 << 34)


def load(tmp_path: Path, content: Any) -> PeerFile:
    file = tmp_path / "peer.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return load_peer_file(file)


def plan(tmp_path: Path, content: Any) -> ServersPlan:
    return plan_peer(load(tmp_path, content), MACHINE, tmp_path, None)


def adapters(tmp_path: Path, *names: str) -> dict[str, str]:
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text("{}")
    return {name: f"./{name}" for name in names}


def flag(argv: tuple[str, ...], name: str, count: int = 1) -> list[str]:
    at = argv.index(name)
    return list(argv[at + 1 : at + 1 + count])


def test_peer_plain_servers_serve_a_task_of_their_own_name(tmp_path: Path) -> None:
    peer = load(tmp_path, {"servers": [{"name": "math", "model": "org/math"}, {"name": "code", "model": "org/code"}]})
    assert peer.tasks == ("math", "code")
    found = plan(tmp_path, {"servers": [{"name": "math", "model": "org/math"}, {"name": "code", "model": "org/code"}]})
    for worker, name in zip(found.workers, ("math", "code"), strict=True):
        assert (worker.name, worker.role, worker.threads) == (f"{name}-0", "unified", 4)
        assert flag(worker.argv, "--served-model-name") == [name]
        assert flag(worker.argv, "--model-path") == [f"org/{name}"]
        assert not [argument for argument in worker.argv if argument.startswith("--disaggregation")]
        assert flag(worker.argv, "--device") == ["cpu"]
        # that flag is for disaggregation on the CPU
        assert "--disable-overlap-schedule" not in worker.argv
        assert not worker.needs_bootstrap_port


def test_peer_engine_of_a_server_wins_over_the_files(tmp_path: Path) -> None:
    servers = [{"name": "a", "model": "o/a"}, {"name": "b", "model": "o/b", "engine": {"dtype": "bfloat16"}}]
    found = plan(tmp_path, {"servers": servers, "engine": {"dtype": "float32"}})
    assert [flag(worker.argv, "--dtype") for worker in found.workers] == [["float32"], ["bfloat16"]]


def test_peer_adapters_are_tasks_of_one_server(tmp_path: Path) -> None:
    content = {"servers": [{"name": "base", "model": "org/base", "adapters": adapters(tmp_path, "math", "code")}]}
    assert load(tmp_path, content).tasks == ("math", "code")
    (worker,) = plan(tmp_path, content).workers
    assert "--enable-lora" in worker.argv
    assert flag(worker.argv, "--lora-paths", 2) == [f"math={tmp_path}/math", f"code={tmp_path}/code"]
    assert flag(worker.argv, "--max-loras-per-batch") == ["3"]
    assert flag(worker.argv, "--lora-backend") == ["torch_native"]


def test_peer_engine_wins_over_what_adapters_set(tmp_path: Path) -> None:
    server = {"name": "base", "model": "o/b", "adapters": adapters(tmp_path, "math")}
    engine = {"max_loras_per_batch": 1, "lora_backend": "triton"}
    (worker,) = plan(tmp_path, {"servers": [{**server, "engine": engine}]}).workers
    assert flag(worker.argv, "--max-loras-per-batch") == ["1"]
    assert flag(worker.argv, "--lora-backend") == ["triton"]


def test_peer_servers_may_share_a_gpu_or_get_one_each(tmp_path: Path) -> None:
    found = tuple(Gpu(index=i, uuid=f"GPU-{i}", name="NVIDIA A100", memory_mb=81920) for i in range(2))
    machine = MACHINE.model_copy(update={"gpus": found})
    servers: list[dict[str, Any]] = [{"name": name, "model": f"o/{name}"} for name in ("a", "b")]
    shared = load(tmp_path, {"servers": [{**server, "gpus": [0]} for server in servers]})
    assert [worker.gpus for worker in plan_peer(shared, machine, tmp_path, None).workers] == [(0,), (0,)]
    own = load(tmp_path, {"servers": servers})
    assert [worker.gpus for worker in plan_peer(own, machine, tmp_path, None).workers] == [(0,), (1,)]
    with pytest.raises(TopologyError, match=r"servers\.0\.gpus: this machine has no GPU 7"):
        plan_peer(load(tmp_path, {"servers": [{**servers[0], "gpus": [7]}]}), machine, tmp_path, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("servers: [", "not valid YAML"),
        ("servers: []", "servers: .*at least 1"),
        ("- a", "peer file: "),
        ({"servers": [{"name": "a"}]}, "servers.0.model: is required"),
        ({"servers": [{"name": "a", "model": "o/a", "role": "decode"}]}, "servers.0.role: unknown key"),
        ({"servers": [{"name": "a", "model": "o/a"}] * 2}, "servers.1.name: `a` is the name of two servers"),
        (
            {"servers": [{"name": "a", "model": "o/a"}, {"name": "b", "model": "o/b", "tasks": ["a"]}]},
            "servers: task `a` is served twice",
        ),
        ({"servers": [{"name": "a", "model": "o/a"}], "engine": {"port": 1}}, "engine.port: is set by the launcher"),
        (
            {"servers": [{"name": "a", "model": "o/a", "engine": {"lora_paths": ["x"]}}]},
            "servers.0.engine.lora_paths: is set by the server's `adapters`",
        ),
        (
            {"servers": [{"name": "a", "model": "o/a", "adapters": {"math": "./none"}}]},
            "servers.0.adapters.math: .*none has no adapter_config.json",
        ),
        (
            {"servers": [{"name": "a", "model": "o/a", "tasks": ["b"], "adapters": {"math": "./none"}}]},
            "servers.0.adapters.math: is no task of this server",
        ),
    ],
)
def test_peer_file_that_is_wrong_is_refused_with_its_place(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(TopologyError, match=message):
        load(tmp_path, content)


def test_peer_model_that_is_no_directory_is_refused_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"servers\.0\.model: .*nowhere is not a directory"):
        plan(tmp_path, {"servers": [{"name": "a", "model": "./nowhere"}]})


def test_peer_file_is_told_from_a_topology() -> None:
    assert is_peer_file({"servers": []})
    assert not is_peer_file({"pools": {}, "tasks": {}})
    assert not is_peer_file(None)
