"""NIXL transfers from main memory on a machine without a GPU.

SGLang registers KV with NIXL as `VRAM` unless told otherwise, and on a CPU nothing tells it.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from sun_sglang.cpu import has_gpu
from sun_sglang.patches.patch import Patch
from sun_sglang.patches.versions import on


def unneeded() -> str | None:
    """Return why this process needs no patch; None where NIXL is installed and KV is in main memory."""
    if has_gpu():
        return "this machine has a GPU"
    return None if importlib.util.find_spec("nixl") is not None else "NIXL is not installed"


def name_main_memory(_self: Any, args: Any, *_args: Any, **_kwargs: Any) -> None:
    """Say that every KV buffer is in main memory, before the manager registers them."""
    args.kv_data_mem_kinds = ["DRAM"] * len(args.kv_data_ptrs)


PATCH = Patch(
    name="nixl_dram",
    target="sglang.srt.disaggregation.nixl.conn.NixlKVManager.__init__",
    parameters=(("self", "args", "disaggregation_mode", "server_args", "is_mla_backend"),),
    kind="before",
    hook=name_main_memory,
    why="NIXL would be asked to register main memory as GPU memory and refuse",
    versions=on("names main memory as the kind of every KV buffer"),
    way_out="when SGLang takes the memory kind from the device",
    unneeded=unneeded,
)
