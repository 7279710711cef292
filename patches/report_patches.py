"""Every scheduler process proves that each hook took, and the server does not start without the proofs."""

from __future__ import annotations

import os
from typing import Any

from sun_sglang.errors import PatchError
from sun_sglang.identity import PatchReport
from sun_sglang.patches.patch import Patch

PROOF = "sun_patches"
_WHY = "SGLang only logs a hook that failed, so a worker could serve unpatched"
_WAY_OUT = "when SGLang refuses to start after a plugin failed"


def add_proof(info: dict[str, Any], *_args: Any, **_kwargs: Any) -> dict[str, Any]:
    """Add the state of every hook in this scheduler process to what it tells the server when it is ready.

    Raises:
        PatchError: a hook did not take; the scheduler, and with it the server, ends.
    """
    from sun_sglang.patches import require_applied

    return {**info, PROOF: {"pid": os.getpid(), "patches": [r.model_dump() for r in require_applied()]}}


def require_proofs(infos: list[dict[str, Any]], *_args: Any, **_kwargs: Any) -> list[dict[str, Any]]:
    """Raise unless every scheduler process sent its proof.

    Raises:
        PatchError: a scheduler came up without this plugin.
    """
    for rank, info in enumerate(infos):
        if PROOF not in info:
            raise PatchError(f"patch `report_patches.scheduler`: scheduler {rank} started without sun-sglang's hooks")
    return infos


def proven(info: dict[str, Any]) -> list[PatchReport]:
    """The reports in a scheduler's ready message; empty if it sent none."""
    return [PatchReport.model_validate(r) for r in info.get(PROOF, {}).get("patches", ())]


SCHEDULER = Patch(
    name="report_patches.scheduler",
    target="sglang.srt.managers.scheduler.Scheduler.get_init_info",
    parameters=("self",),
    kind="after",
    hook=add_proof,
    why=_WHY,
    versions=("0.5.21",),
    way_out=_WAY_OUT,
)
SERVER = Patch(
    name="report_patches.server",
    target="sglang.srt.entrypoints.engine._wait_for_scheduler_ready",
    parameters=("scheduler_pipe_readers", "scheduler_procs"),
    kind="after",
    hook=require_proofs,
    why=_WHY,
    versions=("0.5.21",),
    way_out=_WAY_OUT,
)
