import pytest

from sun_sglang.launch.planning.hardware.machine import detect_machine, multiplies_bf16, quota_cores


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
    machine = detect_machine()
    assert machine.cores >= 1
    assert machine.memory > 1 << 28
