"""A copy between two processes with the KV transfer libraries, without SGLang: correct bytes, and GB/s."""

from __future__ import annotations

from typing import Any

from sun_sglang.bench.gpu_check.context import Context
from sun_sglang.bench.gpu_check.errors import Skipped
from sun_sglang.bench.gpu_check.stage import Stage
from sun_sglang.bench.gpu_check.transfer import MemoryCopy
from sun_sglang.launch.planning.hardware.machine import detect_machine

_MEBIBYTES = {"cuda": 512, "cpu": 64}


def raw_copy(context: Context) -> dict[str, Any]:
    """Copy a buffer between two processes with every KV transfer library that is installed."""
    installed = detect_machine().transfer_packages
    # mooncake's TCP copies through main memory; it is tried where workers would use it
    libraries = [name for name in ("nixl", "mooncake") if name in installed]
    if context.device == "cuda":
        libraries = [name for name in libraries if name == "nixl"] or libraries
    if not libraries:
        raise Skipped("neither NIXL nor mooncake is installed")
    size = _MEBIBYTES[context.device]
    return {name: MemoryCopy(name, context.device, size).run() for name in libraries}


STAGES = (Stage("raw-copy", "KV transfer library: checksum and GB/s between two processes", raw_copy),)
