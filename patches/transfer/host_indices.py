"""Send KV page indices to Mooncake without pinned memory on a machine without a GPU.

From 0.5.23 on a prefill worker copies the indices to pinned memory and records a CUDA event
(`disaggregation/prefill.py`) if the sender supports indices in main memory. Both need a GPU: without one the first
request ends the worker. For a sender without that support SGLang runs the older code, which needs no GPU.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from sun_sglang.cpu import has_gpu
from sun_sglang.patches.patch import Patch
from sun_sglang.patches.versions import inactive

_NATIVE = "SGLang sends indices without a CUDA event"
_SENDER = "sglang.srt.disaggregation.mooncake.conn.MooncakeKVSender"


def inactive_reason() -> str | None:
    """Return why this process does not need the hook; None if it needs it."""
    if has_gpu():
        return "this machine has a GPU"
    if importlib.util.find_spec("mooncake") is None:
        return "Mooncake is not installed"
    from sglang.srt.disaggregation.mooncake.conn import MooncakeKVSender

    if not hasattr(MooncakeKVSender, "supports_host_tensor_indices"):
        return _NATIVE
    return None


def disable_host_indices(_result: None, sender: Any, *_args: Any, **_kwargs: Any) -> None:
    """Mark a sender as one without support for indices in main memory."""
    sender.supports_host_tensor_indices = False


PATCH = Patch(
    name="host_indices",
    target=f"{_SENDER}.__init__",
    parameters=(("self", "mgr", "bootstrap_addr", "bootstrap_room", "req_has_disagg_prefill_dp_rank"),),
    kind="after",
    hook=disable_host_indices,
    why="the first request would end a prefill worker without a GPU: SGLang would create a CUDA event",
    versions={
        **inactive(_NATIVE, ("0.5.21", "0.5.22")),
        "0.5.23": "marks a sender as one without support for indices in main memory",
    },
    removable_when="when SGLang creates CUDA events only where CUDA exists",
    inactive_reason=inactive_reason,
)
