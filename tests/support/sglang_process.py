"""A process that imports SGLang once, and answers each question about it in a fork, which may change what it likes.

    python -m tests.support.sglang_process SOCKET OWNER

Returns once questions can be asked at SOCKET; the process goes on until the process OWNER ends. SGLang's hooks are not
loaded. `tests/support/sglang_questions.py` asks.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import select
import shutil
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

from sun_sglang.processes import die_with_parent
from sun_sglang.worker.server import ENGINE_MODULES, prepare_process


def import_sglang() -> None:
    """Import what a worker imports; what exists then stays in every fork."""
    prepare_process()
    gc.disable()
    for module in ENGINE_MODULES:
        importlib.import_module(module)
    from sun_sglang.patches.processes.fork_schedulers import require_forkable

    require_forkable()
    gc.freeze()
    gc.enable()


def serve(listener: socket.socket, owner: int) -> None:
    """Fork for each connection until the owner ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(owner, select.POLLIN)
    while all(fd != owner for fd, _ in poll.poll()):
        connection, _ = listener.accept()
        server = os.getpid()
        if os.fork() == 0:
            die_with_parent(server)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            answer(connection)
        connection.close()


def answer(connection: socket.socket) -> None:
    """Answer one question: a line of JSON with `call`, `arguments` and `env`; does not return."""
    try:
        with connection.makefile("rwb") as file:
            asked = json.loads(file.readline())
            os.environ.update(asked["env"])
            file.write(json.dumps(outcome(asked["call"], asked["arguments"])).encode())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def outcome(call: str, arguments: list[Any]) -> dict[str, Any]:
    """Call a function, `module:name`; return its result, or the traceback of what it raised."""
    try:
        return {"result": pkgutil.resolve_name(call)(*arguments)}
    except BaseException:
        return {"error": traceback.format_exc()}


def main(place: Path, owner: int) -> None:
    """Import, listen, and go on in the background."""
    ended = os.pidfd_open(owner)
    import_sglang()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()
        if os.fork():
            # the caller waits for this process alone; its own end is not the end of the listener
            os._exit(0)
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1):
            os.dup2(nothing, standard)
        with contextlib.suppress(KeyboardInterrupt):
            serve(listener, ended)
    shutil.rmtree(place.parent, ignore_errors=True)
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
