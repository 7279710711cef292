"""States of KV transfers that another thread changes at the worst moment."""

from __future__ import annotations

import threading
from typing import Any


class InterruptedStates(dict[int, Any]):
    """States of transfers. Another thread runs once a state has been read, and before it is written.

    Args:
        within: seconds to wait for the end of the other thread, which may wait for a lock: no event tells that; None
            to wait until it ends.

    Attributes:
        other: the other thread, not yet started; to be set.
    """

    other: threading.Thread

    def __init__(self, within: float | None) -> None:
        super().__init__()
        self._within = within

    def get(self, key: int, default: Any = None) -> Any:
        """Return a state; the first call runs the other thread after the read."""
        found = super().get(key, default)
        if threading.current_thread() is not self.other and not self.other.ident:
            self.other.start()
            self.other.join(self._within)
        return found
