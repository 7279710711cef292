"""The GPUs of a machine, those that `CUDA_VISIBLE_DEVICES` selects, and the variable of each worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from sun_sglang.errors import UserError
from sun_sglang.launch.planning.hardware import gpu_inventory as gpus_module
from sun_sglang.launch.planning.hardware.gpu_inventory import (
    Gpu,
    parse_nvidia_smi,
    usable_gpus,
    used_memory,
    visible_gpus,
)
from sun_sglang.launch.planning.hardware.machine import detect_machine

TWO = "0, GPU-aaa, NVIDIA H200, 143771, Disabled\n1, GPU-abb, NVIDIA H200, 143771, [N/A]\n"
SPLIT = "0, GPU-aaa, NVIDIA H100, 81559, Disabled\n1, GPU-abb, NVIDIA H100, 81559, Enabled\n"
LISTING = """\
GPU 0: NVIDIA H100 (UUID: GPU-aaa)
GPU 1: NVIDIA H100 (UUID: GPU-abb)
  MIG 3g.40gb     Device  0: (UUID: MIG-c6d4f1ef-42e4)
  MIG 1g.10gb     Device  1: (UUID: MIG-0c757cd7-e942)
"""


def test_gpus_in_a_table_are_read() -> None:
    gpus = parse_nvidia_smi(TWO)
    assert gpus[1] == Gpu(index=1, uuid="GPU-abb", name="NVIDIA H200", memory_mb=143771)
    assert [g.cuda_name for g in gpus] == ["0", "1"]


@pytest.mark.parametrize("text", ["", "No devices were found\n", "0, GPU-aaa\n"])
def test_table_without_gpus_has_none(text: str) -> None:
    assert parse_nvidia_smi(text) == ()


def test_gpu_with_unified_memory_has_no_size() -> None:
    assert parse_nvidia_smi("0, GPU-a, NVIDIA GB10, [N/A], [N/A]\n")[0].memory_mb == 0


def test_split_gpu_is_replaced_by_its_mig_devices() -> None:
    gpus = parse_nvidia_smi(SPLIT, LISTING)
    assert [(g.index, g.cuda_name) for g in gpus] == [(0, "0"), (2, "MIG-c6d4f1ef-42e4"), (3, "MIG-0c757cd7-e942")]
    assert gpus[1].name == "NVIDIA H100 MIG 3g.40gb of GPU 1"


def test_split_gpu_without_mig_devices_is_an_error_where_it_is_the_only_one() -> None:
    assert [g.index for g in parse_nvidia_smi(SPLIT, "")] == [0]
    with pytest.raises(UserError, match=r"GPU 1 is in MIG mode and has no MIG device; create one .* to use the CPU"):
        parse_nvidia_smi(SPLIT.splitlines()[1], "")


@pytest.mark.parametrize(
    ("wanted", "indices"),
    [
        (None, [0, 1]),
        ("", []),
        (" ", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1", [1]),
        ("1, 0", [1, 0]),
        ("0,-1,1", [0]),
        ("GPU-ab", [1]),
        ("GPU-abb,GPU-aaa", [1, 0]),
    ],
)
def test_visible_devices_are_followed(wanted: str | None, indices: list[int]) -> None:
    environ = {} if wanted is None else {"CUDA_VISIBLE_DEVICES": wanted}
    assert [g.index for g in visible_gpus(parse_nvidia_smi(TWO), environ)] == indices


@pytest.mark.parametrize(("wanted", "index"), [("MIG-c6d4f1ef-42e4", 2), ("MIG-0c", 3), ("GPU-aaa", 0), ("0", 0)])
def test_visible_mig_device_is_found_by_its_uuid_or_its_beginning(wanted: str, index: int) -> None:
    gpus = parse_nvidia_smi(SPLIT, LISTING)
    assert [g.index for g in visible_gpus(gpus, {"CUDA_VISIBLE_DEVICES": wanted})] == [index]


@pytest.mark.parametrize(
    ("wanted", "problem"),
    [
        ("0,7", "`7` matches no GPU; GPUs here: 0 .NVIDIA H100., MIG-c6d4f1ef-42e4 .*"),
        ("1", "`1` matches no GPU"),
        ("MIG-9", "`MIG-9` matches no GPU"),
        ("MIG-GPU-abb/1/0", "`MIG-GPU-abb/1/0` matches no GPU"),
        ("MIG-", "`MIG-` matches more than one GPU"),
        ("0,GPU-aaa", "`GPU-aaa` is named twice"),
        ("0,,1", "`` matches no GPU"),
    ],
)
def test_visible_device_that_matches_nothing_is_an_error(wanted: str, problem: str) -> None:
    with pytest.raises(UserError, match=f"CUDA_VISIBLE_DEVICES: {problem}.*Set it empty to use the CPU"):
        visible_gpus(parse_nvidia_smi(SPLIT, LISTING), {"CUDA_VISIBLE_DEVICES": wanted})


# --- a machine with a driver ----------------------------------------------------------------------------------------


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install an `nvidia-smi` that answers as on a machine with a whole GPU and a split one."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        f"#!/bin/sh\ncase $1 in\n-L) cat <<'E'\n{LISTING}E\n;;\n"
        f"--query-gpu=index,memory.used) printf '0, 512\\n1, [N/A]\\n';;\n*) cat <<'E'\n{SPLIT}E\nesac\n"
    )
    tool.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tool


def test_detect_on_a_split_gpu_finds_its_mig_devices(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-0c757cd7-e942")
    machine = detect_machine()
    assert ([g.index for g in machine.gpus], machine.gpu_problem) == ([3], "")


def test_detect_where_visible_devices_match_nothing_reports_the_problem(
    driver: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-9")
    machine = detect_machine()
    assert machine.gpus == ()
    assert machine.gpu_problem.startswith("CUDA_VISIBLE_DEVICES: `MIG-9` matches no GPU")


def test_driver_that_hangs_is_an_error_and_not_asked_where_gpus_are_hidden(
    driver: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.write_text("#!/bin/sh\nexec sleep 600\n")
    monkeypatch.setattr(gpus_module, "_TIMEOUT_S", 0.05)
    with pytest.raises(UserError, match=r"`nvidia-smi` did not answer within 0\.05 s"):
        usable_gpus({})
    assert used_memory() == {}
    monkeypatch.setattr(gpus_module, "_TIMEOUT_S", 600.0)
    assert usable_gpus({"CUDA_VISIBLE_DEVICES": ""}) == ()


def test_memory_in_use_is_read_where_the_driver_tells_it(driver: Path) -> None:
    assert used_memory() == {0: 512}


def test_driver_files_are_read_where_nvidia_smi_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("0000:3b:00.0", "0000:18:00.0"):
        directory = tmp_path / address
        directory.mkdir()
        (directory / "information").write_text(f"Model: \t\t NVIDIA L4\nGPU UUID: \t GPU-{address[5:7]}\n")
    monkeypatch.setattr(gpus_module, "_DRIVER", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [(g.index, g.uuid) for g in usable_gpus({})] == [(0, "GPU-18"), (1, "GPU-3b")]
