"""Let one thread at a time change the state of a transfer.

A worker's scheduler and the thread that receives its peer's messages both change it
(`disaggregation/common/conn.py`, `update_status`): each reads it, decides, and writes. A message that arrives between
the scheduler's read and write was lost: the decode worker had announced where the KV goes, and the prefill worker
waited for that until the request's deadline. On a CPU with other load, some of ten thousand requests waited so.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from sun_sglang.patches.patch import Patch
from sun_sglang.patches.versions import on

_LOCK = "_sun_status_lock"


def update_alone(update: Callable[[Any, int, Any], None], manager: Any, bootstrap_room: int, status: Any) -> None:
    """Change the state of a room while no other thread changes one.

    Args:
        update: SGLang's method.
        manager: the worker's KV manager.
        bootstrap_room: the transfer.
        status: its new state, a `KVPoll`.
    """
    # one call, so that two threads get the same lock; the method calls itself when it fails a room
    with vars(manager).setdefault(_LOCK, threading.RLock()):
        update(manager, bootstrap_room, status)


PATCH = Patch(
    name="room_status",
    target="sglang.srt.disaggregation.common.conn.CommonKVManager.update_status",
    parameters=(("self", "bootstrap_room", "status"),),
    kind="around",
    hook=update_alone,
    why="the message that a decode worker is ready could be lost, and the request would wait for its deadline",
    versions=on("lets one thread at a time change the state of a transfer"),
    removable_when="when SGLang's update_status is atomic",
)
