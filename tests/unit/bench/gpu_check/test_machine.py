"""Facts about the machine, from tools that are faked."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path

import pytest

from sun_sglang.bench.gpu_check import machine
from sun_sglang.bench.gpu_check.errors import CheckError
from sun_sglang.bench.gpu_check.machine import PACKAGES, facts, gpu_memory_used
from sun_sglang.bench.provenance import installed_versions

NVIDIA_SMI = """case "$1 $2" in
"topo -m") printf '\\033[4mGPU0 NIC0\\033[0m\\n\\nGPU0 X NODE\\n' ;;
--query-gpu=index,memory.used*) printf '0, 512\\n1, 1024\\n2, [N/A]\\n' ;;
--query-gpu=name*) printf 'name, driver_version\\nNVIDIA H100, 580.1\\n' ;;
*) exit 1 ;;
esac
"""
UCX_INFO = """echo '# Library version: 1.19.0'
echo '# Library path: /opt/secret/libucs.so.0'
"""
Tool = Callable[[str, str], None]


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tool:
    """Install a shell script; no other tool of the machine is found."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")

    def install(name: str, script: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}")
        (tmp_path / name).chmod(0o700)

    return install


def test_facts_hold_the_gpus_their_topology_and_the_versions(tool: Tool) -> None:
    tool("nvidia-smi", NVIDIA_SMI)
    tool("ucx_info", UCX_INFO)
    found = facts()
    assert found.gpus == ("NVIDIA H100, 580.1",)
    assert found.details["topology"] == ["GPU0 NIC0", "GPU0 X NODE"]
    assert found.details["ucx"] == ["# Library version: 1.19.0"]
    assert "torch" in installed_versions(PACKAGES)


def test_facts_hold_no_path_and_no_host_name(tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    tool("ucx_info", UCX_INFO)
    for name, value in {"NCCL_TOPO_FILE": "/opt/secret", "NCCL_HOSTID": "secret", "UCX_TLS": "tcp"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(platform, "node", lambda: "secret")
    found = facts()
    assert "secret" not in found.model_dump_json()
    environment = found.details["environment"]
    assert isinstance(environment, dict)
    assert environment["UCX_TLS"] == "tcp"
    assert {"NCCL_TOPO_FILE", "NCCL_HOSTID"} <= set(environment)


@pytest.mark.parametrize("script", [None, "exit 9", "exec sleep 600"], ids=["missing", "failing", "hanging"])
def test_facts_without_an_answer_of_the_driver_hold_no_gpu(
    tool: Tool, monkeypatch: pytest.MonkeyPatch, script: str | None
) -> None:
    monkeypatch.setattr(machine, "_TIMEOUT", 0.05 if script and "sleep" in script else 60)
    if script:
        tool("nvidia-smi", script)
    found = facts()
    assert (found.gpus, found.details["topology"]) == ((), [])


def test_memory_in_use_is_summed_over_the_named_gpus(tool: Tool) -> None:
    tool("nvidia-smi", NVIDIA_SMI)
    assert (gpu_memory_used([1]), gpu_memory_used([0, 1]), gpu_memory_used([])) == (1024, 1536, 0)


def test_memory_in_use_that_the_driver_does_not_report_is_an_error(tool: Tool) -> None:
    tool("nvidia-smi", NVIDIA_SMI)
    with pytest.raises(CheckError, match="does not report the memory in use on GPU 2"):
        gpu_memory_used([0, 2])
