"""Every scheduler process proves that each hook took, and the server does not start without the proofs."""

from __future__ import annotations

import os
from typing import Any

from sun_sglang.errors import PatchError
from sun_sglang.identity import PatchReport
from sun_sglang.patches.patch import Patch
from sun_sglang.patches.versions import on

PROOF = "sun_patches"
_WHY = "SGLang only logs a hook that failed, so a worker could serve unpatched"
_WAY_OUT = "when SGLang refuses to start after a plugin failed"


def add_proof(info: dict[str, Any], *_args: Any, **_kwargs: Any) -> dict[str, Any]:
    """Add the state of every hook in this scheduler process to what it tells the server when it is ready."""
    from sun_sglang.patches import status

    reports = [r.model_dump() for r in status() if r.state != "inactive"]
    return {**info, PROOF: {"pid": os.getpid(), "patches": reports}}


def require_proofs(infos: list[dict[str, Any]], *_args: Any, **_kwargs: Any) -> list[dict[str, Any]]:
    """Raise unless every scheduler process sent its proof and every hook took there.

    The server raises for its schedulers: an exception of a scheduler would kill the server without a word.

    Raises:
        PatchError: a scheduler came up without this plugin, or without a hook.
    """
    from sun_sglang.patches import require_taken

    for rank, info in enumerate(infos):
        if PROOF not in info:
            raise PatchError(f"patch `report_patches.scheduler`: scheduler {rank} started without sun-sglang's hooks")
        require_taken(proven(info))
    return infos


def proven(info: dict[str, Any]) -> list[PatchReport]:
    """The reports in a scheduler's ready message; empty if it sent none."""
    return [PatchReport.model_validate(r) for r in info.get(PROOF, {}).get("patches", ())]


SCHEDULER = Patch(
    name="report_patches.scheduler",
    target="sglang.srt.managers.scheduler.Scheduler.get_init_info",
    parameters=(("self",),),
    kind="after",
    hook=add_proof,
    why=_WHY,
    versions=on("adds the state of every hook to a scheduler's ready message"),
    way_out=_WAY_OUT,
)
SERVER = Patch(
    name="report_patches.server",
    target="sglang.srt.entrypoints.engine._wait_for_scheduler_ready",
    parameters=(("scheduler_pipe_readers", "scheduler_procs"),),
    kind="after",
    hook=require_proofs,
    why=_WHY,
    versions=on("refuses schedulers without their hooks"),
    way_out=_WAY_OUT,
)
