"""A system of a peer file: SGLang servers without a router; the client sends each task straight to its server."""

from __future__ import annotations

from pathlib import Path

from sun_sglang.bench.load.client.endpoint import Endpoint, Route
from sun_sglang.bench.provenance import as_json
from sun_sglang.bench.serving.peers.peer_file import PeerFile, load_peer_file, plan_peer
from sun_sglang.bench.serving.result import SystemReport
from sun_sglang.bench.serving.systems.cores import Cores, pin_processes
from sun_sglang.bench.serving.systems.facts import Facts, facts_of
from sun_sglang.bench.serving.systems.launcher import Launcher
from sun_sglang.bench.serving.targets.target import Target, TaskWorkers
from sun_sglang.launch.planning.flags.flag_schema import load_flag_schema
from sun_sglang.launch.planning.hardware.machine import detect_machine
from sun_sglang.launch.router_access import worker_headers
from sun_sglang.launch.state import DeploymentState
from sun_sglang.strict import parse_yaml


class PeerSystem:
    """A system of a peer file.

    Args:
        file: the peer file.
        name: its name in the result.
        run_dir: directory for its state and its logs.
        cores: the cores of its processes by role.
    """

    starts = True

    def __init__(self, file: Path, name: str, run_dir: Path, cores: Cores) -> None:
        definition = as_json(parse_yaml(file.read_text(encoding="utf-8")))
        self.report = SystemReport(name=name, kind="peer", definition=definition)
        self._peer = load_peer_file(file)
        self._run_dir = run_dir
        self._cores = cores
        self._launcher = Launcher(["sun_sglang.bench.serving.peers", str(file.resolve()), str(run_dir)], run_dir)

    async def start(self) -> Target:
        """Start its servers, and return where each task goes once all of them answer.

        Raises:
            LaunchError: a server does not start; has the end of its log.
        """
        self._run_dir.mkdir(parents=True, exist_ok=True)
        state = await self._launcher.start()
        pin_processes(state.processes, self._cores)
        return peer_target(self.report.name, self._peer, state, worker_headers(self._run_dir))

    async def stop(self) -> None:
        """Stop its servers."""
        await self._launcher.stop()


def peer_target(name: str, peer: PeerFile, state: DeploymentState, headers: dict[str, str]) -> Target:
    """Return where the requests of each task go.

    Args:
        name: the name of the system.
        peer: its file.
        state: its state; a server is the only process of its pool.
        headers: headers of every request, with the key that the servers require.
    """
    endpoints = {process.pool: Endpoint(process.url, headers) for process in state.processes}
    routes, workers = {}, {}
    for server in peer.servers:
        for task in server.served:
            adapter = {"lora_path": task} if task in server.adapters else {}
            routes[task] = Route(endpoints[server.name], server.name, adapter)
            # a server prefills and decodes
            workers[task] = TaskWorkers(frozenset({server.name}), frozenset({server.name}))
    return Target("peer", name, routes, workers, tuple(endpoints.values()))


def peer_facts(file: Path, run_dir: Path) -> Facts:
    """Check everything of a peer file that can be checked before a start, and return what must be equal in others.

    Raises:
        UserError: the first error in the file.
    """
    peer = load_peer_file(file)
    plan = plan_peer(peer, detect_machine(), run_dir, load_flag_schema())
    return facts_of(peer.tasks, plan.pools.values())
