"""Make an idle data-parallel controller wait for messages instead of polling without a pause.

`DataParallelController.event_loop` polls its socket again at once if there is no message, so an idle worker with
`dp_size` above 1 keeps a core busy. This hook gives the loop a socket that waits a moment before it reports that there
is no message; a message ends the wait at once.
"""

from __future__ import annotations

from typing import Any

from sun_sglang.patches.patch import Patch
from sun_sglang.patches.versions import on

WAIT_MS = 100


class PatientSocket:
    """A ZeroMQ socket whose non-blocking reads wait up to `WAIT_MS` for a message.

    Args:
        socket: the socket to read from; all other methods are passed on to it.
    """

    def __init__(self, socket: Any) -> None:
        self._socket = socket

    def recv(self, flags: int = 0) -> Any:
        """Read one message. Raises `zmq.Again` if `flags` forbid blocking and none arrived within `WAIT_MS`."""
        self._socket.poll(WAIT_MS)
        return self._socket.recv(flags=flags)

    def recv_pyobj(self, flags: int = 0) -> Any:
        """Read one pickled object; waits and raises as `recv`."""
        self._socket.poll(WAIT_MS)
        return self._socket.recv_pyobj(flags=flags)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


def wait_for_messages(controller: Any) -> None:
    """Replace the socket of a controller's loop by one that waits."""
    controller.recv_from_tokenizer = PatientSocket(controller.recv_from_tokenizer)


PATCH = Patch(
    name="idle_controller",
    target="sglang.srt.managers.data_parallel_controller.DataParallelController.event_loop",
    parameters=(("self",),),
    kind="before",
    hook=wait_for_messages,
    why="an idle worker with data-parallel ranks keeps a core busy",
    versions=on("replaces the socket of the controller's loop by one that waits"),
    removable_when="when SGLang's controller waits for messages",
)
