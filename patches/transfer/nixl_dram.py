"""Make NIXL transfer from main memory on a machine without a GPU.

SGLang registers KV with NIXL as `VRAM` unless the memory kinds are set, and it does not set them on a CPU.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from sun_sglang.cpu import has_gpu
from sun_sglang.patches.patch import Patch
from sun_sglang.patches.versions import on


def inactive_reason() -> str | None:
    """Return why this process does not need the hook; None if NIXL is installed and KV is in main memory."""
    if has_gpu():
        return "this machine has a GPU"
    return None if importlib.util.find_spec("nixl") is not None else "NIXL is not installed"


def set_main_memory(_self: Any, args: Any, *_args: Any, **_kwargs: Any) -> None:
    """Set main memory as the kind of every KV buffer, before the manager registers the buffers."""
    args.kv_data_mem_kinds = ["DRAM"] * len(args.kv_data_ptrs)


PATCH = Patch(
    name="nixl_dram",
    target="sglang.srt.disaggregation.nixl.conn.NixlKVManager.__init__",
    parameters=(("self", "args", "disaggregation_mode", "server_args", "is_mla_backend"),),
    kind="before",
    hook=set_main_memory,
    why="NIXL would refuse to register main memory as GPU memory",
    versions=on("sets main memory as the kind of every KV buffer"),
    removable_when="when SGLang takes the memory kind from the device",
    inactive_reason=inactive_reason,
)
