"""A system of a topology file: `sun launch` starts it, and requests go to its router."""

from __future__ import annotations

from pathlib import Path

from sun_sglang.bench.provenance import as_json
from sun_sglang.bench.serving.result import SystemReport
from sun_sglang.bench.serving.systems.cores import Cores, pin_processes
from sun_sglang.bench.serving.systems.facts import Facts, facts_of
from sun_sglang.bench.serving.systems.launcher import Launcher
from sun_sglang.bench.serving.targets.running import router_target
from sun_sglang.bench.serving.targets.target import Target
from sun_sglang.launch.deployment import prepare
from sun_sglang.strict import parse_yaml


class TopologySystem:
    """A system of a topology file.

    Args:
        file: the topology file.
        name: its name in the result.
        run_dir: directory for its state and its logs.
        cores: the cores of its processes by role.
    """

    starts = True

    def __init__(self, file: Path, name: str, run_dir: Path, cores: Cores) -> None:
        definition = as_json(parse_yaml(file.read_text(encoding="utf-8")))
        self.report = SystemReport(name=name, kind="topology", definition=definition)
        self._run_dir = run_dir
        self._cores = cores
        arguments = ["sun_sglang.cli", "launch", str(file.resolve()), "--run-dir", str(run_dir)]
        self._launcher = Launcher(arguments, run_dir)

    async def start(self) -> Target:
        """Launch it, and return its router as the target once every task is ready.

        Raises:
            LaunchError: it does not start; shows the end of the launcher's output.
        """
        self._run_dir.mkdir(parents=True, exist_ok=True)
        state = await self._launcher.start()
        pin_processes(state.processes, self._cores)
        return await router_target("topology", self.report.name, state.url, self._run_dir)

    async def stop(self) -> None:
        """Stop the launcher with all of its processes."""
        await self._launcher.stop()


async def topology_facts(file: Path, run_dir: Path) -> Facts:
    """Check everything of a topology that can be checked before a start, and return what must be equal in others.

    Raises:
        UserError: the first error in the topology.
    """
    prepared = await prepare(file, run_dir)
    return facts_of(prepared.topology.tasks, prepared.findings.pools.values())
