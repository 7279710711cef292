"""RDMA devices as sysfs shows them: on hosts, in containers, on AWS."""

from __future__ import annotations

from pathlib import Path

import pytest

from sun_sglang.launch.planning.hardware import machine as machine_module
from sun_sglang.launch.planning.hardware.machine import detect_machine
from sun_sglang.launch.planning.hardware.rdma import RdmaDevice, protocol_for, rdma_devices


class Host:
    """Directories in place of `/sys` and `/dev`."""

    def __init__(self, root: Path) -> None:
        self.sys, self.dev = root / "sys", root / "dev"
        (self.dev / "infiniband").mkdir(parents=True)

    def add(
        self, name: str, driver: str = "mlx5_core", ports: tuple[str, ...] = ("4: ACTIVE",), verbs: str = "uverbs0"
    ) -> Path:
        """Add a device; returns the path of its verbs device's file."""
        device = self.sys / "class" / "infiniband" / name
        for number, state in enumerate(ports, start=1):
            port = device / "ports" / str(number)
            port.mkdir(parents=True)
            (port / "state").write_text(f"{state}\n")
        if driver:
            (self.sys / "drivers" / driver).mkdir(parents=True, exist_ok=True)
            (device / "device").mkdir(parents=True)
            (device / "device" / "driver").symlink_to(self.sys / "drivers" / driver)
        file = self.dev / "infiniband" / (verbs or "none")
        if verbs:
            directory = self.sys / "class" / "infiniband_verbs" / verbs
            directory.mkdir(parents=True)
            (directory / "ibdev").write_text(f"{name}\n")
            file.touch()
        return file

    def found(self) -> tuple[RdmaDevice, ...]:
        return rdma_devices(self.sys, self.dev)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_machine_without_rdma_has_none(host: Host) -> None:
    assert host.found() == ()


def test_device_with_an_active_port_can_be_used(host: Host) -> None:
    host.add("mlx5_1", ports=("1: DOWN", "4: ACTIVE"), verbs="uverbs1")
    host.add("mlx5_0")
    assert host.found() == tuple(RdmaDevice(name=f"mlx5_{i}", driver="mlx5_core") for i in (0, 1))


@pytest.mark.parametrize(
    ("driver", "ports", "verbs", "obstacle"),
    [
        ("mlx5_core", ("1: DOWN",), "uverbs0", "port 1 is DOWN"),
        ("mlx5_core", ("1: DOWN", "2: INIT"), "uverbs0", "port 1 is DOWN, port 2 is INIT"),
        ("mlx5_core", (), "uverbs0", "it has no port"),
        ("mlx5_core", ("4: ACTIVE",), "", "it has no verbs device (is the module `ib_uverbs` loaded?)"),
        ("", ("4: ACTIVE",), "uverbs0", "it is a software device, which cannot reach GPU memory"),
    ],
)
def test_device_that_cannot_move_kv_names_its_obstacle(
    host: Host, driver: str, ports: tuple[str, ...], verbs: str, obstacle: str
) -> None:
    host.add("mlx5_0", driver, ports, verbs)
    assert [device.obstacle for device in host.found()] == [obstacle]


def test_device_without_its_file_cannot_be_used_in_this_container(host: Host) -> None:
    file = host.add("mlx5_0")
    file.unlink()
    assert host.found()[0].obstacle == f"{file} is missing here (a container needs it passed in)"


def test_device_whose_file_others_own_cannot_be_used(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    file = host.add("mlx5_0")
    # a superuser may open every file
    monkeypatch.setattr("os.access", lambda path, _mode: path != file)
    assert host.found()[0].obstacle == f"{file} cannot be opened by this user"


def test_efa_alone_has_its_own_protocol(host: Host) -> None:
    host.add("rdmap16s27", driver="efa")
    assert protocol_for(host.found()) == {"MOONCAKE_PROTOCOL": "efa"}
    host.add("mlx5_0", verbs="uverbs1")
    assert protocol_for(host.found()) == {}


def test_detect_reads_devices_and_the_users_settings_of_mooncake(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.add("mlx5_0", ports=("1: DOWN",))
    monkeypatch.setattr(machine_module, "rdma_devices", host.found)
    monkeypatch.setenv("MOONCAKE_PROTOCOL", "tcp")
    monkeypatch.setenv("MC_TCP_LANES_PER_PEER", "2")
    machine = detect_machine()
    assert [str(device) for device in machine.rdma] == ["mlx5_0 (mlx5_core): port 1 is DOWN"]
    assert machine.mooncake_variables == {"MOONCAKE_PROTOCOL": "tcp", "MC_TCP_LANES_PER_PEER": "2"}
