"""One process that imports SGLang once and forks every local worker.

    python -m sun_sglang.launch.places.local.fork_server FD

The launcher sends one JSON object a line over the socket FD, a `ForkRequest`; the fork server answers with one `Event`
a line. It has one thread and no device, which makes its forks safe, and it checks both before each fork. When the
socket closes it ends, and the kernel ends its workers with it.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from sun_sglang.errors import EXIT_REFUSED, PatchError, SunError
from sun_sglang.processes import die_with_parent
from sun_sglang.strict import Strict


class ForkRequest(Strict):
    """A worker to fork.

    Attributes:
        name: its name in events and in the list of processes.
        argv: SGLang's flags.
        env: environment variables to set.
        threads: number of threads for torch.
        log: file for its output.
    """

    name: str
    argv: tuple[str, ...]
    env: dict[str, str]
    threads: int
    log: Path


class Event(Strict):
    """A message from the fork server to the launcher.

    Attributes:
        kind: `ready` (SGLang is imported), `unsafe` (a fork would not be safe; the fork server ends), `refused` (a hook
            on SGLang did not take effect; the fork server ends), `started`, `exited`, `fork_failed` (the machine has no
            room for one more process).
        name: the worker, in the last three.
        pid: its process.
        status: its exit status; negative for a signal.
        detail: the reason, for `unsafe`, `refused` and `fork_failed`.
    """

    kind: Literal["ready", "unsafe", "refused", "started", "exited", "fork_failed"]
    name: str = ""
    pid: int = 0
    status: int = 0
    detail: str = ""


class ForkServer:
    """Fork workers and report their ends: one thread, one loop.

    Args:
        link: the socket to the launcher.
    """

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._buffer = b""
        self._workers: dict[int, tuple[str, int]] = {}

    def run(self) -> None:
        """Serve until the launcher closes the socket."""
        poll = select.poll()
        poll.register(self._link, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self._link.fileno():
                    if not self._read():
                        return
                    for pidfd in self._fork_all():
                        poll.register(pidfd, select.POLLIN)
                else:
                    poll.unregister(fd)
                    self._reap(fd)

    def send(self, event: Event) -> None:
        """Send one event to the launcher."""
        self._link.sendall(event.model_dump_json().encode() + b"\n")

    def _read(self) -> bool:
        data = self._link.recv(1 << 16)
        self._buffer += data
        return bool(data)

    def _fork_all(self) -> list[int]:
        *lines, self._buffer = self._buffer.split(b"\n")
        pidfds = [self._fork(ForkRequest.model_validate_json(line)) for line in lines]
        return [pidfd for pidfd in pidfds if pidfd is not None]

    def _fork(self, request: ForkRequest) -> int | None:
        require_no_device()
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as e:
            # an exception would end this process, and with it the workers that run
            self.send(Event(kind="fork_failed", name=request.name, detail=f"cannot fork: {e.strerror or e}"))
            return None
        if pid == 0:
            _live(request, parent, self._link)
        with suppress(ProcessLookupError):
            # the child makes this call too; from the first of the two on, a signal to the group reaches it
            os.setpgid(pid, pid)
        pidfd = os.pidfd_open(pid)
        self._workers[pidfd] = (request.name, pid)
        self.send(Event(kind="started", name=request.name, pid=pid))
        return pidfd

    def _reap(self, pidfd: int) -> None:
        name, pid = self._workers.pop(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(pid, 0)
        self.send(Event(kind="exited", name=name, pid=pid, status=os.waitstatus_to_exitcode(status)))


def require_no_device() -> None:
    """Raise if this process has a CUDA context, or a thread that might hold a lock across a fork.

    Raises:
        PatchError: names the device or the threads.
    """
    from sun_sglang.patches.processes.fork_schedulers import require_forkable

    require_forkable()
    opened = [str(f.readlink()) for f in Path("/proc/self/fd").iterdir() if f.is_symlink() and f.exists()]
    if any(name.startswith("/dev/nvidia-uvm") for name in opened):
        raise PatchError("CUDA is in use before the fork (/dev/nvidia-uvm is open)")


def _live(request: ForkRequest, parent: int, link: socket.socket) -> None:
    """Run a forked worker until it ends; does not return."""
    status = 1
    try:
        die_with_parent(parent)
        # the launcher finds the processes that it leaves behind by their group
        os.setpgid(0, 0)
        link.close()
        _become(request)
        from sun_sglang.worker.server import report_end, serve

        serve(request.argv)
        status = 0
    except SystemExit as e:
        status = _exit_status(e)
    except SunError as e:
        status = report_end(e)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _exit_status(end: SystemExit) -> int:
    """Return the status with which Python would exit, and print the message where the end carries one."""
    if isinstance(end.code, str):
        print(end.code, file=sys.stderr)  # noqa: T201 - what Python does at its own exit
        return 1
    return end.code or 0


def _become(request: ForkRequest) -> None:
    import setproctitle
    import torch

    log = os.open(request.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.environ.update(request.env)
    torch.set_num_threads(request.threads)
    share_metrics()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    setproctitle.setproctitle(f"sun-worker {request.name}")


def share_metrics() -> None:
    """Keep the metrics of this process and its children where SGLang's metrics page reads them.

    prometheus-client decides at its import whether processes share values. The fork server imports it before SGLang
    sets the directory for them (`set_prometheus_multiproc_dir`), so the page of a worker with `enable_metrics` would
    stay empty.
    """
    from prometheus_client import values

    alone = values.ValueClass
    shared = values.MultiProcessValue()  # type: ignore[no-untyped-call]  # the library has no types here

    def choose(*arguments: Any, **options: Any) -> Any:
        return (shared if os.environ.get("PROMETHEUS_MULTIPROC_DIR") else alone)(*arguments, **options)

    values.ValueClass = choose


def main() -> None:
    """Run `python -m sun_sglang.launch.places.local.fork_server`."""
    from sun_sglang.patches.processes.fork_schedulers import FORK_VARIABLE

    # the launcher handles the terminal's Ctrl-C for all of its processes
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ[FORK_VARIABLE] = "1"
    # torch then detects GPUs without a CUDA context (torch/cuda/__init__.py)
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    server = ForkServer(socket.socket(fileno=int(sys.argv[1])))
    try:
        from sun_sglang.worker.server import import_engine

        import_engine()
    except PatchError as e:
        server.send(Event(kind="refused", detail=str(e)))
        sys.exit(EXIT_REFUSED)
    try:
        require_no_device()
    except PatchError as e:
        server.send(Event(kind="unsafe", detail=str(e)))
        sys.exit(3)
    # objects that exist now stay in every child: a garbage collection there would touch, and so copy, their pages
    gc.collect()
    gc.freeze()
    server.send(Event(kind="ready"))
    server.run()


if __name__ == "__mp_main__":
    # a forked worker with a data-parallel controller spawns processes, which import this file before SGLang
    from sun_sglang.worker.server import prepare_process

    prepare_process()
elif __name__ == "__main__":
    main()
