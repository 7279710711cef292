"""Keep the threads of KV transfer running, and end the scheduler if one of them ends.

The thread that sends KV checks that a room is known and then reads it, twice for each part of a transfer
(`disaggregation/mooncake/conn.py`, `transfer_worker`). The scheduler's thread removes a room once its request is over.
If it does so between the two, the sender ends with a `KeyError`. One thread sends everything to one decode worker, so
each later request of that pair waited for its deadline, and the worker reported healthy. It was seen on a CPU with
other load and short thread switches. The sender now goes on: nothing is to be sent for a room that is gone.

Whatever else ends a thread of KV transfer ends the scheduler too, as an exception in the scheduler's own loop does. The
server follows (`utils/watchdog.py`), the router sends requests elsewhere, and the launcher starts the worker again.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from sun_sglang.patches.patch import Patch
from sun_sglang.patches.versions import on

_LOGGER = logging.getLogger(__name__)
_TRANSFER = "sglang.srt.disaggregation."


def keep_sending(send: Callable[..., None], manager: Any, *args: Any, **kwargs: Any) -> None:
    """Run the loop that sends KV, and run it again if it ended at a room that is gone.

    Args:
        send: SGLang's method.
        manager: the prefill worker's KV manager.
        args: further arguments of SGLang's method.
        kwargs: further arguments of SGLang's method.

    Raises:
        RuntimeError: the loop ended for another reason.
    """
    while True:
        try:
            return send(manager, *args, **kwargs)
        except RuntimeError as error:
            room = missing_key(error)
            if room is None or room in manager.request_status:
                raise
            _LOGGER.warning("The request of room %s was over before its KV transfer was; nothing is lost.", room)


def missing_key(error: BaseException) -> object:
    """Return the key of the `KeyError` that SGLang turned into this error; None for every other error."""
    cause = error.__context__
    return cause.args[0] if isinstance(cause, KeyError) else None


def end_with_threads(*_args: Any, **_kwargs: Any) -> None:
    """Make this process end if an exception ends one of its threads of KV transfer. A second call has no effect."""
    report = threading.excepthook
    if getattr(report, "ends_scheduler", False):
        return

    def end(args: threading.ExceptHookArgs) -> None:
        report(args)
        if is_of_transfer(args.exc_traceback):
            _LOGGER.error("A thread of KV transfer ended; this scheduler ends too: its requests would wait for ever.")
            os._exit(1)

    vars(end)["ends_scheduler"] = True
    threading.excepthook = end


def is_of_transfer(trace: TracebackType | None) -> bool:
    """Return whether an exception passed through a function of SGLang's KV transfer."""
    while trace is not None:
        if str(trace.tb_frame.f_globals.get("__name__")).startswith(_TRANSFER):
            return True
        trace = trace.tb_next
    return False


SENDER = Patch(
    name="transfer_threads.sender",
    target="sglang.srt.disaggregation.mooncake.conn.MooncakeKVManager.transfer_worker",
    parameters=(("self", "queue", "executor", "staging_buffer", "worker_index"),),
    kind="around",
    hook=keep_sending,
    why="a request that ends while its KV is sent could end the thread, and with it all transfers to a decode worker",
    versions=on("goes on sending after a room that is gone"),
    removable_when="when SGLang's transfer_worker reads the state of a room once",
)
GUARD = Patch(
    name="transfer_threads.guard",
    target="sglang.srt.disaggregation.common.conn.CommonKVManager.__init__",
    parameters=(("self", "args", "disaggregation_mode", "server_args", "is_mla_backend"),),
    kind="before",
    hook=end_with_threads,
    why="a worker without such a thread would report healthy, and its requests would wait for their deadline",
    versions=on("ends the scheduler if a thread of KV transfer ends"),
    removable_when="when SGLang ends a server whose thread of KV transfer has ended",
)
