"""A data-parallel controller that has nothing to do waits for messages in place of asking for them without a pause.

`DataParallelController.event_loop` asks its socket again at once when there is no message: an idle worker with
`dp_size` above 1 keeps a core busy for as long as it lives. The socket given to the loop here waits a moment before it
reports that there is none; a message ends the wait at once.
"""

from __future__ import annotations

from typing import Any

from sun_sglang.patches.patch import Patch
from sun_sglang.patches.versions import on

WAIT_MS = 100


class PatientSocket:
    """A ZeroMQ socket whose non-blocking reads wait up to `WAIT_MS` for a message.

    Args:
        socket: the socket that it reads from; every other method is that socket's own.
    """

    def __init__(self, socket: Any) -> None:
        self._socket = socket

    def recv(self, flags: int = 0) -> Any:
        """Read one message; raises `zmq.Again` where `flags` say not to block and none came."""
        self._socket.poll(WAIT_MS)
        return self._socket.recv(flags=flags)

    def recv_pyobj(self, flags: int = 0) -> Any:
        """Read one pickled object, as `recv` reads a message."""
        self._socket.poll(WAIT_MS)
        return self._socket.recv_pyobj(flags=flags)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


def wait_for_messages(controller: Any) -> None:
    """Give a controller's loop a socket that waits."""
    controller.recv_from_tokenizer = PatientSocket(controller.recv_from_tokenizer)


PATCH = Patch(
    name="idle_controller",
    target="sglang.srt.managers.data_parallel_controller.DataParallelController.event_loop",
    parameters=(("self",),),
    kind="before",
    hook=wait_for_messages,
    why="an idle worker with data-parallel ranks keeps a core busy",
    versions=on("gives the controller's loop a socket that waits"),
    way_out="when SGLang's controller waits for messages",
)
