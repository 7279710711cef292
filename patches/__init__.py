"""Hooks on SGLang, one change per file, registered through its plugin entry point.

`register` is what SGLang calls in the launcher, the engine and every scheduler process; `status` looks at what took.
"""

from __future__ import annotations

from collections.abc import Iterable

from sun_sglang.contracts.worker_card import PatchReport
from sun_sglang.errors import PatchError
from sun_sglang.patches import (
    few_grammars,
    fork_schedulers,
    host_indices,
    idle_controller,
    keyed_transfer,
    nixl_dram,
    paged_alloc_cpu,
    prompt_only_cache,
    report_patches,
    worker_key,
)
from sun_sglang.patches.patch import Patch
from sun_sglang.patches.versions import installed_version, require_plugin_selected, require_supported

ALL: tuple[Patch, ...] = (
    report_patches.SCHEDULER,
    report_patches.SERVER,
    prompt_only_cache.PATCH,
    paged_alloc_cpu.EXTEND,
    paged_alloc_cpu.DECODE,
    nixl_dram.PATCH,
    host_indices.PATCH,
    few_grammars.KEPT,
    few_grammars.COMPILER,
    fork_schedulers.SERVER,
    fork_schedulers.CONTROLLER,
    idle_controller.PATCH,
    worker_key.PATCH,
    keyed_transfer.LISTEN,
    keyed_transfer.MANAGER,
    keyed_transfer.RECEIVER,
    keyed_transfer.RANKS,
)


def register() -> None:
    """Entry point `sglang.srt.plugins`: register every hook that this process needs.

    Raises:
        PatchError: a target has moved or takes other arguments. SGLang logs it and goes on, and `require_applied`
            then refuses the process by name.
    """
    for patch in ALL:
        if patch.unneeded() is None:
            patch.require_target()
            patch.register()


def status() -> list[PatchReport]:
    """The state of every hook in this process, in the order of `ALL`."""
    return [patch.report() for patch in ALL]


def require_applied() -> list[PatchReport]:
    """Return the reports of the hooks that this process needs.

    Raises:
        PatchError: the product was not run on this SGLang, its plugin is left out, or a hook did not take; names the
            first.
    """
    require_supported(installed_version())
    require_plugin_selected()
    reports = [r for r in status() if r.state != "inactive"]
    require_taken(reports)
    return reports


def require_taken(reports: Iterable[PatchReport]) -> None:
    """Raise unless every hook took.

    Raises:
        PatchError: names the first that did not.
    """
    for report in reports:
        if report.state not in ("applied", "inactive"):
            raise PatchError(f"patch `{report.name}` did not take: {report.detail}")
