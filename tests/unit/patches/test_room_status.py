"""The state of a transfer changes in one thread at a time."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

from sun_sglang.patches.transfer.room_status import update_alone
from tests.support.interrupted_states import InterruptedStates

ROOM, OPENED, READY = 7, 1, 2
# the other thread waits for a lock
BLOCKED = 0.2


def open_or_raise(manager: Any, room: int, status: int) -> None:
    """Read, decide and write, as SGLang does."""
    current = manager.request_status.get(room)
    manager.request_status[room] = status if current is None else max(current, status)


def test_a_message_that_arrives_while_the_scheduler_opens_a_room_is_kept() -> None:
    rooms = InterruptedStates(BLOCKED)
    manager = SimpleNamespace(request_status=rooms)
    rooms.other = threading.Thread(target=update_alone, args=(open_or_raise, manager, ROOM, READY))
    update_alone(open_or_raise, manager, ROOM, OPENED)
    rooms.other.join()
    assert rooms == {ROOM: READY}


def test_an_update_may_make_another_one() -> None:
    manager = SimpleNamespace(request_status={})

    def twice(manager: Any, room: int, status: int) -> None:
        if status == READY:
            update_alone(twice, manager, room, OPENED)
        open_or_raise(manager, room, status)

    update_alone(twice, manager, ROOM, READY)
    assert manager.request_status == {ROOM: READY}
