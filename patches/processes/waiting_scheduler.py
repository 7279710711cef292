"""Let a scheduler without a GPU pause while its requests wait for a KV transfer.

With `sleep_on_idle` a scheduler sleeps once it has no request at all. A prefill or decode scheduler whose requests wait
for their peer polls again at once (`managers/scheduler.py`: `on_idle`) and keeps a core busy. On a CPU that core is one
of those that compute: the peer for which it waits gets the rest. This hook makes the poll wait a moment; a message ends
the wait at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sun_sglang.cpu import has_gpu
from sun_sglang.patches.patch import Patch
from sun_sglang.patches.versions import on

WAIT_MS = 2


def inactive_reason() -> str | None:
    """Return why this process does not need the hook; None without a GPU."""
    return "this machine has a GPU" if has_gpu() else None


def pause_while_waiting(on_idle: Callable[[Any], None], scheduler: Any) -> None:
    """Run `on_idle`, then wait up to `WAIT_MS` for a message if requests are in transfer and `sleep_on_idle` is set."""
    on_idle(scheduler)
    if scheduler.idle_sleeper is not None and not scheduler.is_fully_idle():
        scheduler.idle_sleeper.poller.poll(WAIT_MS)


PATCH = Patch(
    name="waiting_scheduler",
    target="sglang.srt.managers.scheduler.Scheduler.on_idle",
    parameters=(("self",),),
    kind="around",
    hook=pause_while_waiting,
    why="a scheduler whose requests are in transfer keeps a core busy, and on a CPU its peer needs the core",
    versions=on("makes the loop wait for messages up to 2 ms between two polls of the transfers"),
    removable_when="when SGLang's scheduler pauses between two polls of the KV transfers",
    inactive_reason=inactive_reason,
)
