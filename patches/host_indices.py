"""Mooncake receives KV page indices without pinned memory on a machine without a GPU.

From 0.5.23 on a prefill worker copies the indices to pinned memory and records a CUDA event
(`disaggregation/prefill.py`), wherever the sender takes them from main memory. Both need a GPU: without one the first
request ends the worker. A sender that does not take them gets them from the older code, which needs no GPU.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from sun_sglang.cpu import has_gpu
from sun_sglang.patches.patch import Patch
from sun_sglang.patches.versions import inactive

_NATIVE = "SGLang sends indices without a CUDA event"
_SENDER = "sglang.srt.disaggregation.mooncake.conn.MooncakeKVSender"


def unneeded() -> str | None:
    """Return why this process needs no patch; None where it does."""
    if has_gpu():
        return "this machine has a GPU"
    if importlib.util.find_spec("mooncake") is None:
        return "Mooncake is not installed"
    from sglang.srt.disaggregation.mooncake.conn import MooncakeKVSender

    if not hasattr(MooncakeKVSender, "supports_host_tensor_indices"):
        return _NATIVE
    return None


def take_no_host_indices(_result: None, sender: Any, *_args: Any, **_kwargs: Any) -> None:
    """Mark a sender as one that takes no indices from main memory."""
    sender.supports_host_tensor_indices = False


PATCH = Patch(
    name="host_indices",
    target=f"{_SENDER}.__init__",
    parameters=(("self", "mgr", "bootstrap_addr", "bootstrap_room", "req_has_disagg_prefill_dp_rank"),),
    kind="after",
    hook=take_no_host_indices,
    why="the first request would end a prefill worker that has no GPU: it would ask for a CUDA event",
    versions={
        **inactive(_NATIVE, ("0.5.21", "0.5.22")),
        "0.5.23": "marks a sender as one that takes no indices from main memory",
    },
    way_out="when SGLang asks for a CUDA event only where there is CUDA",
    unneeded=unneeded,
)
