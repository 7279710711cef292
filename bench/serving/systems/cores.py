"""The cores on which the processes of a system run, by their role: compared systems then have equal resources."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import psutil

from sun_sglang.bench.load.errors import FlagError
from sun_sglang.launch.state import ProcessState
from sun_sglang.strict import listed

ROLES = ("prefill", "decode", "server", "router", "client")
"""The roles of processes: a server of a peer file does prefill and decode, the client is `sun bench` itself."""

Cores = Mapping[str, tuple[int, ...]]
"""The cores of each role; a role without an entry may use all."""


def parse_cores(text: str) -> dict[str, tuple[int, ...]]:
    """Return the cores of `--cores "prefill:0-1 decode:2,3"`.

    Raises:
        FlagError: a role is unknown or named twice, or a core is none of this process.
    """
    cores: dict[str, tuple[int, ...]] = {}
    for part in text.split():
        role, _, given = part.partition(":")
        if role not in ROLES:
            raise FlagError("cores", f"unknown role `{role}`; known: {listed(ROLES)}")
        if role in cores:
            raise FlagError("cores", f"`{role}` is named twice")
        cores[role] = _parse_list(part, given)
    if not cores:
        raise FlagError("cores", 'no role; write ROLE:CORES, such as "prefill:0 decode:1"')
    return cores


def cores_of(role: str, cores: Cores) -> tuple[int, ...]:
    """Return the cores of a role; none where it may use all.

    A server that does both has the cores of prefill and decode together, unless it has its own.
    """
    if role == "server" and role not in cores:
        return tuple(sorted({*cores.get("prefill", ()), *cores.get("decode", ())}))
    return cores.get(role, ())


def pin_processes(processes: Iterable[ProcessState], cores: Cores) -> None:
    """Bind running processes, their children and all of their threads to the cores of their roles.

    What they start later inherits it.
    """
    for process in processes:
        if chosen := cores_of(process.role, cores):
            pin(process.pid, chosen)


def pin(pid: int, cores: Iterable[int]) -> None:
    """Bind a process, its children and all of their threads to cores; those that have ended are left out."""
    chosen = set(cores)
    try:
        tree = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return
    for member in tree:
        try:
            threads = [int(entry.name) for entry in Path(f"/proc/{member}/task").iterdir()]
            for thread in threads:
                os.sched_setaffinity(thread, chosen)
        except (FileNotFoundError, ProcessLookupError):
            continue


def _parse_list(part: str, text: str) -> tuple[int, ...]:
    available = os.sched_getaffinity(0)
    chosen: set[int] = set()
    for piece in text.split(","):
        low, _, high = piece.partition("-")
        if not low.isdecimal() or not (high or low).isdecimal():
            raise FlagError("cores", f"`{part}`: write ROLE:CORES, such as `decode:2,3` or `decode:2-3`")
        chosen |= set(range(int(low), int(high or low) + 1))
        if not chosen or not chosen <= available:
            raise FlagError("cores", f"`{part}`: cores of this process: {_shown(available)}")
    return tuple(sorted(chosen))


def _shown(cores: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(cores)))
