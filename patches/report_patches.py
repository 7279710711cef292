"""Make each scheduler process report the state of its hooks, and start no server without every report.

A report ("proof") is a line in an anonymous file of the server, which vanishes with the server. A scheduler's ready
message cannot carry it: with `dp_size` > 1 the message goes to SGLang's data-parallel controller, which builds its own
message for the server.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from sun_sglang.contracts.worker_card import PatchReport
from sun_sglang.errors import PatchError
from sun_sglang.patches.patch import Patch
from sun_sglang.patches.versions import on

PROOF_FILE_VARIABLE = "SUN_PROOFS"  # path of the file of proofs, for every process that the server starts
PROOFS_KEY = "sun_patches"  # key in SGLang's scheduler info
_WHY = "SGLang only logs a hook that failed, so a worker could serve without it"
_REMOVABLE_WHEN = "when SGLang refuses to start after a plugin failed"


class Proof(BaseModel):
    """The state of every hook in one scheduler process.

    Attributes:
        pid: id of the process.
        patches: the state of the hooks that the process needs.
        kv_cache_dtype: the string that SGLang compares with the other side's before it transfers KV. A scheduler
            resolves it after it has loaded the weights, whose quantization may name a dtype.
        lora_rank: the highest rank of an adapter; 0 without LoRA.
        lora_targets: the layers that an adapter may change, as SGLang names its buffers for them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pid: int
    patches: tuple[PatchReport, ...]
    kv_cache_dtype: str = ""
    lora_rank: int = 0
    lora_targets: tuple[str, ...] = ()


class ProofFile:
    """An anonymous file of the server to which its schedulers append their proofs.

    Attributes:
        path: path by which the server's descendants open the file.
    """

    def __init__(self) -> None:
        self._fd = os.memfd_create("sun-proofs")
        self.path = f"/proc/{os.getpid()}/fd/{self._fd}"

    def read(self) -> list[Proof]:
        """Return the proofs that have been appended."""
        content = os.pread(self._fd, os.fstat(self._fd).st_size, 0)
        return [Proof.model_validate_json(line) for line in content.splitlines()]

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def leave_proof(_info: dict[str, Any], scheduler: Any, *_args: Any, **_kwargs: Any) -> None:
    """Append this scheduler's proof, right before the scheduler reports that it is ready."""
    from sun_sglang.patches import status

    path = os.environ.get(PROOF_FILE_VARIABLE)
    if path is None:
        return  # the server lacks the hook that collects proofs, and `require_applied` refuses it
    reports = tuple(r for r in status() if r.state != "inactive")
    # the value that `disaggregation/prefill.py` and `decode.py` pass to the transfer
    runner = scheduler.tp_worker.model_runner
    proof = Proof(pid=os.getpid(), patches=reports, kv_cache_dtype=runner.kv_cache_dtype_str)
    if (adapters := runner.lora_manager) is not None:
        # SGLang derives both from `lora_paths` where no flag names them
        targets = tuple(sorted(adapters.target_modules))
        proof = proof.model_copy(update={"lora_rank": adapters.max_lora_rank, "lora_targets": targets})
    append_proof(path, proof)


def append_proof(path: str, proof: Proof) -> None:
    """Append a proof in one write, so that no other process's write can split it."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, proof.model_dump_json().encode() + b"\n")
    finally:
        os.close(fd)


def launch_with_proofs(launch: Callable[..., tuple[Any, Any]], *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """Start the schedulers, and make the server wait for the proof of each.

    The server raises, and not the scheduler: SGLang ends the server without a message after a scheduler's exception.
    """
    file = ProofFile()
    os.environ[PROOF_FILE_VARIABLE] = file.path
    try:
        result, processes = launch(*args, **kwargs)
    finally:
        del os.environ[PROOF_FILE_VARIABLE]
    wait = result.wait_for_ready

    def wait_for_proofs() -> None:
        wait()
        proofs = file.read()
        file.close()
        infos: list[dict[str, Any]] = result.scheduler_infos
        require_proofs(proofs, scheduler_pids(infos, processes))
        infos[0][PROOFS_KEY] = [proof.model_dump() for proof in proofs]

    result.wait_for_ready = wait_for_proofs
    return result, processes


def scheduler_pids(infos: Iterable[Mapping[str, Any]], processes: Iterable[Any]) -> set[int]:
    """Return the ids of all scheduler processes of a server: tensor x pipeline x data parallel ranks.

    Args:
        infos: the ready messages. The message of a data-parallel controller lists its schedulers.
        processes: the processes that the server started: the schedulers, or the controller with or without them.
    """
    controlled = [pid for info in infos for pid in info.get("scheduler_pids", ())]
    return set(controlled) or {process.pid for process in processes}


def require_proofs(proofs: Iterable[Proof], pids: Collection[int]) -> None:
    """Raise unless each scheduler process left a proof in which every hook is applied.

    Raises:
        PatchError: a scheduler started without this plugin, or without a hook.
    """
    from sun_sglang.patches import require_hooks

    by_pid = {proof.pid: proof for proof in proofs}
    without = [pid for pid in pids if pid not in by_pid]
    if without or not pids:
        raise PatchError(
            f"patch `report_patches.scheduler`: {len(without)} of {len(pids)} schedulers started without sun-sglang's "
            f"hooks (processes {', '.join(map(str, sorted(without)))})"
        )
    for pid in pids:
        require_hooks(by_pid[pid].patches)


def scheduler_proofs(info: Mapping[str, Any]) -> list[Proof]:
    """Return the schedulers' proofs in the info that the server keeps; empty if it has none."""
    return [Proof.model_validate(proof) for proof in info.get(PROOFS_KEY, ())]


SCHEDULER = Patch(
    name="report_patches.scheduler",
    target="sglang.srt.managers.scheduler.Scheduler.get_init_info",
    parameters=(("self",),),
    kind="after",
    hook=leave_proof,
    why=_WHY,
    versions=on("leaves a proof with the state of every hook before a scheduler is ready"),
    removable_when=_REMOVABLE_WHEN,
)
SERVER = Patch(
    name="report_patches.server",
    target="sglang.srt.entrypoints.engine.Engine._launch_scheduler_processes",
    parameters=(("cls", "server_args", "port_args", "run_scheduler_process_func", "placement_group"),),
    kind="around",
    hook=launch_with_proofs,
    why=_WHY,
    versions=on("requires a proof of every scheduler, also of those behind a data-parallel controller"),
    removable_when=_REMOVABLE_WHEN,
)
