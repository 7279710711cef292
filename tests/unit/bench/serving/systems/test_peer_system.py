from __future__ import annotations

from pathlib import Path

from sun_sglang.bench.load.metrics.summary import Workers
from sun_sglang.bench.serving.peers.peer_file import PeerFile
from sun_sglang.bench.serving.systems.peer_system import peer_target
from sun_sglang.launch.state import DeploymentState, Phase, ProcessState


def state(*names: str) -> DeploymentState:
    processes = tuple(
        ProcessState(
            name=f"{name}-0",
            pool=name,
            role="server",
            phase=Phase.RUNNING,
            pid=1,
            url=f"http://127.0.0.1:{port}",
            log=Path("log"),
            restarts=0,
        )
        for port, name in enumerate(names, 1000)
    )
    return DeploymentState(
        topology=Path("peer.yaml"),
        pid=1,
        created=1,
        phase=Phase.READY,
        url="",
        transfer="",
        seconds_to_ready=1.0,
        detail="",
        processes=processes,
    )


def test_peer_tasks_go_straight_to_their_servers_with_the_worker_key() -> None:
    servers = [{"name": "math", "model": "m"}, {"name": "code", "model": "c"}]
    target = peer_target("plain", PeerFile(servers=servers), state("math", "code"), {"Authorization": "Bearer k"})
    assert target.tasks == ("math", "code")
    assert target.endpoint_of("code").url == "http://127.0.0.1:1001"
    assert target.endpoint_of("code").headers == {"Authorization": "Bearer k"}
    assert target.routes["code"].model == "code"
    assert target.workers_of(["math", "code"]) == Workers(total=2, decode=2)
    assert [endpoint.url for endpoint in target.flushes] == ["http://127.0.0.1:1000", "http://127.0.0.1:1001"]


def test_peer_adapters_are_named_in_the_requests_to_one_server() -> None:
    servers = [{"name": "base", "model": "b", "tasks": ["plain", "math"], "adapters": {"math": "/m"}}]
    target = peer_target("lora", PeerFile(servers=servers), state("base"), {})
    assert [(route.model, route.fields) for route in target.routes.values()] == [
        ("base", {}),
        ("base", {"lora_path": "math"}),
    ]
    assert target.workers_of(["plain", "math"]) == Workers(total=1, decode=1)
