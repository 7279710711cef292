"""Turn the signals that stop a command into an exception, so that it cleans up before it ends."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from sun_sglang.errors import QuantizeFailed

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stop_signals() -> Iterator[Callable[[], None]]:
    """Raise `QuantizeFailed` at the first of SIGINT, SIGTERM and SIGHUP, and ignore later ones until the end.

    Yields:
        a function after whose call the signals are ignored: the work is done, and only its name is missing.
    """

    def ignore() -> None:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def stop(number: int, _: FrameType | None) -> NoReturn:
        ignore()
        raise QuantizeFailed(f"stopped by {signal.Signals(number).name}; nothing was written")

    before: dict[int, Any] = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield ignore
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
