"""The systems of several files: each is checked before the first one is started."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sun_sglang.bench.load.errors import BenchError
from sun_sglang.bench.serving.peers.peer_file import is_peer_file
from sun_sglang.bench.serving.systems.cores import Cores
from sun_sglang.bench.serving.systems.facts import Facts, require_comparable
from sun_sglang.bench.serving.systems.peer_system import PeerSystem, peer_facts
from sun_sglang.bench.serving.systems.system import System
from sun_sglang.bench.serving.systems.topology_system import TopologySystem, topology_facts
from sun_sglang.errors import SunError
from sun_sglang.strict import YamlError, parse_yaml


async def load_systems(
    files: Sequence[Path], run_dir: Path, cores: Cores
) -> tuple[tuple[System, ...], tuple[str, ...]]:
    """Return the systems of some files, and the tasks that all of them serve, in the order of the first file.

    Args:
        files: topology files and peer files.
        run_dir: directory for the state and the logs of each.
        cores: the cores of processes by role.

    Raises:
        BenchError: a file is wrong, or two systems cannot be compared.
    """
    facts: dict[str, Facts] = {}
    systems: list[System] = []
    for name, file in _names(files).items():
        directory = run_dir / name.replace("/", "_")
        try:
            if is_peer_file(_content(file)):
                facts[name] = peer_facts(file, directory)
                systems.append(PeerSystem(file, name, directory, cores))
            else:
                facts[name] = await topology_facts(file, directory)
                systems.append(TopologySystem(file, name, directory, cores))
        except SunError as e:
            text = str(e)
            raise BenchError(text if text.startswith(str(file)) else f"{file}: {text}") from e
    require_comparable(facts)
    return tuple(systems), next(iter(facts.values())).tasks


def _content(file: Path) -> Any:
    """Return the content of a file; None where it cannot be read: the reader of topology files names the reason."""
    try:
        return parse_yaml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YamlError):
        return None


def _names(files: Sequence[Path]) -> dict[str, Path]:
    """Return the files by the names of their systems: `sun` of `configs/sun.yaml`; the path where two would be equal.

    Raises:
        BenchError: a file is named twice.
    """
    resolved = [file.resolve() for file in files]
    for number, file in enumerate(resolved):
        if file in resolved[:number]:
            raise BenchError(f"{files[number]} is named twice")
    stems = [file.stem for file in files]
    return {stem if stems.count(stem) == 1 else str(file): file for stem, file in zip(stems, files, strict=True)}
