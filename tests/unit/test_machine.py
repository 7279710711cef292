import pytest

from sun_sglang.launch.machine import (
    Gpu,
    detect,
    multiplies_bf16,
    parse_nvidia_smi,
    quota_cores,
    visible_gpus,
)

TWO = "0, GPU-aaa, NVIDIA H200, 143771\n1, GPU-abb, NVIDIA H200, 143771\n"


def test_nvidia_smi_is_read() -> None:
    gpus = parse_nvidia_smi(TWO)
    assert gpus[1] == Gpu(index=1, uuid="GPU-abb", name="NVIDIA H200", memory_mb=143771)


@pytest.mark.parametrize("text", ["", "No devices were found\n", "0, GPU-aaa\n"])
def test_what_is_no_list_of_gpus_has_none(text: str) -> None:
    assert parse_nvidia_smi(text) == ()


def test_unified_memory_has_no_size() -> None:
    assert parse_nvidia_smi("0, GPU-a, NVIDIA GB10, [N/A]\n")[0].memory_mb == 0


@pytest.mark.parametrize(
    ("wanted", "indices"),
    [
        (None, [0, 1]),
        ("", []),
        ("-1", []),
        ("1", [1]),
        ("1,0", [1, 0]),
        ("0,7,1", [0]),
        ("0,0", [0]),
        ("GPU-ab", [1]),
        ("GPU-a", []),
    ],
)
def test_cuda_visible_devices_is_followed(wanted: str | None, indices: list[int]) -> None:
    environ = {} if wanted is None else {"CUDA_VISIBLE_DEVICES": wanted}
    assert [g.index for g in visible_gpus(parse_nvidia_smi(TWO), environ)] == indices


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("flags\t\t: fpu avx2 avx512_bf16\n", True),
        ("flags\t\t: fpu avx2 amx_bf16 amx_tile\n", True),
        ("flags\t\t: fpu avx2 avx512f\n", False),
        ("model name: bf16\nFeatures\t: fp asimd bf16\n", True),
        ("model name: bf16\n", False),
    ],
)
def test_bfloat16_arithmetic_is_seen(cpuinfo: str, expected: bool) -> None:
    assert multiplies_bf16(cpuinfo) is expected


@pytest.mark.parametrize(
    ("cpu_max", "cores"), [("max 100000\n", None), ("200000 100000\n", 2), ("50000 100000\n", 1), ("", None)]
)
def test_a_control_group_bounds_the_cores(cpu_max: str, cores: int | None) -> None:
    assert quota_cores(cpu_max) == cores


def test_this_machine_has_cores_and_memory() -> None:
    machine = detect()
    assert machine.cores >= 1
    assert machine.memory > 1 << 28
