"""Hooks on SGLang, one change per file, registered through SGLang's plugin entry point.

SGLang calls `register` in the launcher, the engine and every scheduler process. `status` reports the state of each
hook, and `require_applied` refuses a process without one.

How to add a hook:

1. Add a file to `cache/` (what a worker keeps), `transfer/` (KV on its way between workers), `first_token/` (requests
   whose first token the decode worker makes), `weights/` (4-bit weights on a CPU), `lora/` (adapters), `modules/`
   (modules that take turns), `replay/` (answers that go on elsewhere), `processes/` (a worker's own processes), or
   here. It has a module docstring that states the change and its reason, the hook function, and a `Patch`
   (`patch.py`): the target, its parameters on each SGLang version, the kind of hook, what the hook does on each
   version, and when the file can be removed.
2. Add the `Patch` to `ALL` below.
3. Add every name of SGLang that the hook calls, reads or sets to `USES` in `engine_names.py`.
4. Add a test of the hook function to `tests/unit/patches/`, and of its effect to `tests/engine/`.
5. Run `make engine-check VERSION=...` for each supported version.

Belongs here: changes to SGLang's behaviour. Does not belong here: code beside SGLang in a worker's process
(`sun_sglang/worker/`), and choices of SGLang's flags (`sun_sglang/launch/planning/`). Open `patch.py` first.
"""

from __future__ import annotations

from collections.abc import Iterable

from sun_sglang.contracts.worker_card import PatchReport
from sun_sglang.errors import PatchError
from sun_sglang.patches import report_patches, worker_key
from sun_sglang.patches.cache import few_grammars, paged_alloc_cpu, prefill_hits, prompt_only_cache
from sun_sglang.patches.first_token import first_output, first_step, penalties, prompt_logprobs, split_prompt
from sun_sglang.patches.lora import cold_loads, lora_host_memory, verified_load
from sun_sglang.patches.modules import held, turns
from sun_sglang.patches.patch import Patch
from sun_sglang.patches.processes import fork_schedulers, idle_controller, waiting_scheduler
from sun_sglang.patches.replay import forced_tokens, stream_tokens
from sun_sglang.patches.transfer import (
    first_ids_row,
    host_indices,
    keyed_transfer,
    nixl_dram,
    room_status,
    transfer_threads,
)
from sun_sglang.patches.versions import installed_version, require_plugin_selected, require_supported
from sun_sglang.patches.weights import apply, dtypes, load, schemes

ALL: tuple[Patch, ...] = (
    report_patches.SCHEDULER,
    report_patches.SERVER,
    prompt_only_cache.PATCH,
    prefill_hits.COUNT,
    prefill_hits.DETAILS,
    first_ids_row.PATCH,
    paged_alloc_cpu.EXTEND,
    paged_alloc_cpu.DECODE,
    nixl_dram.PATCH,
    host_indices.PATCH,
    room_status.PATCH,
    transfer_threads.SENDER,
    transfer_threads.GUARD,
    few_grammars.KEPT,
    few_grammars.COMPILER,
    fork_schedulers.SERVER,
    fork_schedulers.CONTROLLER,
    idle_controller.PATCH,
    waiting_scheduler.PATCH,
    worker_key.PATCH,
    keyed_transfer.LISTEN,
    keyed_transfer.MANAGER,
    keyed_transfer.RECEIVER,
    keyed_transfer.RANKS,
    lora_host_memory.MANAGER,
    lora_host_memory.LOAD,
    lora_host_memory.LOAD_TENSORS,
    lora_host_memory.BATCH,
    verified_load.PATCH,
    cold_loads.FETCH,
    cold_loads.UNLOAD,
    held.PATCH,
    turns.PATCH,
    split_prompt.CHECK,
    split_prompt.SPLIT,
    first_step.COMMIT,
    first_step.START,
    first_step.RETRACT,
    first_output.JOIN,
    first_output.SEND,
    penalties.PATCH,
    prompt_logprobs.TOKEN,
    prompt_logprobs.ROW,
    stream_tokens.PATCH,
    forced_tokens.BATCH,
    forced_tokens.SAMPLE,
    forced_tokens.LOGPROBS,
    forced_tokens.REPLACE,
    schemes.PATCH,
    dtypes.PATCH,
    load.PATCH,
    apply.PATCH,
)


def register() -> None:
    """Entry point `sglang.srt.plugins`: register every hook that this process needs.

    Raises:
        PatchError: a target is missing or has other parameters. SGLang logs the error and goes on;
            `require_applied` then refuses the process.
    """
    for patch in ALL:
        if patch.inactive_reason() is None:
            patch.require_target()
            patch.register()


def status() -> list[PatchReport]:
    """Return the state of every hook in this process, in the order of `ALL`."""
    return [patch.report() for patch in ALL]


def require_applied() -> list[PatchReport]:
    """Return the reports of the hooks that this process needs.

    Raises:
        PatchError: the SGLang version is not supported, SGLang leaves out the plugin, or a hook is not applied; names
            the first problem.
    """
    require_supported(installed_version())
    require_plugin_selected()
    reports = [r for r in status() if r.state != "inactive"]
    require_hooks(reports)
    return reports


def require_hooks(reports: Iterable[PatchReport]) -> None:
    """Raise unless every hook is applied or inactive.

    Raises:
        PatchError: names the first hook that is not.
    """
    for report in reports:
        if report.state not in ("applied", "inactive"):
            raise PatchError(f"patch `{report.name}` is not applied: {report.detail}")
