"""List the RDMA devices of this machine, and find those that can move KV.

A device's directory in sysfs shows only that a driver was loaded, so its port, its driver and its files are checked.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from sun_sglang.strict import Strict

PROTOCOL = "MOONCAKE_PROTOCOL"
_EFA = "efa"


class RdmaDevice(Strict):
    """One RDMA device.

    Attributes:
        name: its name in `/sys/class/infiniband`.
        driver: its kernel driver, such as `mlx5_core`; empty for a software device.
        obstacle: the reason for which a worker cannot move KV over it; empty if it can.
    """

    name: str
    driver: str
    obstacle: str = ""

    def __str__(self) -> str:
        about = f"{self.name} ({self.driver})" if self.driver else self.name
        return f"{about}: {self.obstacle}" if self.obstacle else about


def rdma_devices(sys: Path = Path("/sys"), dev: Path = Path("/dev")) -> tuple[RdmaDevice, ...]:
    """Return the RDMA devices of this machine in the order of their names.

    Args:
        sys: mount point of sysfs.
        dev: directory of device files; a container may show a device in sysfs and lack its file.
    """
    root = sys / "class" / "infiniband"
    names = sorted(p.name for p in root.iterdir()) if root.is_dir() else []
    verbs = _verbs_devices(sys)
    return tuple(_device(root / name, dev, verbs.get(name)) for name in names)


def protocol_for(devices: Sequence[RdmaDevice]) -> dict[str, str]:
    """Return the variables that mooncake needs for the devices without an obstacle: EFA has its own protocol."""
    usable = [device for device in devices if not device.obstacle]
    return {PROTOCOL: _EFA} if usable and all(device.driver == _EFA for device in usable) else {}


def _device(directory: Path, dev: Path, verbs: str | None) -> RdmaDevice:
    link = directory / "device" / "driver"
    driver = link.resolve().name if link.exists() else ""
    return RdmaDevice(name=directory.name, driver=driver, obstacle=_obstacle(directory, dev, driver, verbs))


def _obstacle(directory: Path, dev: Path, driver: str, verbs: str | None) -> str:
    if not driver:
        return "it is a software device, which cannot reach GPU memory"
    if verbs is None:
        return "it has no verbs device (is the module `ib_uverbs` loaded?)"
    file = dev / "infiniband" / verbs
    if not file.exists():
        return f"{file} is missing here (a container needs it passed in)"
    if not os.access(file, os.R_OK | os.W_OK):
        return f"{file} cannot be opened by this user"
    states = {port.name: _state(port) for port in sorted((directory / "ports").glob("*"))}
    if "ACTIVE" in states.values():
        return ""
    return ", ".join(f"port {port} is {state}" for port, state in states.items()) or "it has no port"


def _state(port: Path) -> str:
    """Return a port's link state in words; its file has the form `4: ACTIVE`."""
    file = port / "state"
    return file.read_text().rpartition(":")[2].strip() if file.exists() else "of unknown state"


def _verbs_devices(sys: Path) -> dict[str, str]:
    """Return the name of each RDMA device's verbs device, such as `uverbs0`."""
    files = sorted((sys / "class" / "infiniband_verbs").glob("uverbs*/ibdev"))
    return {file.read_text().strip(): file.parent.name for file in files}
