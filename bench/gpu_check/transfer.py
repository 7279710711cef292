"""Copy memory between two processes with a KV transfer library: NIXL, or mooncake over TCP."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sun_sglang.bench.gpu_check.errors import CheckError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

_REPEATS = 5
_TIMEOUT = 60.0
_HOST = "127.0.0.1"


@dataclass(frozen=True)
class MemoryCopy:
    """A copy of one buffer between two processes, repeated.

    Attributes:
        library: `nixl` or `mooncake`.
        device: device of both buffers: `cuda` or `cpu`.
        mebibytes: size of the buffer.
    """

    library: str
    device: str
    mebibytes: int

    def run(self) -> dict[str, Any]:
        """Copy from one child process to another, compare the bytes, and return the GB/s: median and range.

        Raises:
            CheckError: a process failed, or the received bytes differ from the sent ones.
        """
        spawn = multiprocessing.get_context("spawn")
        ends = [spawn.Pipe() for _ in "st"]
        names = ("sender", "target")
        targets = (_send, _receive)
        children = [
            spawn.Process(target=_guarded, args=(run, self, end[1]), name=name)
            for run, end, name in zip(targets, ends, names, strict=True)
        ]
        for child, end in zip(children, ends, strict=True):
            child.start()
            # with the child's end open here too, reading would never report that the child ended
            end[1].close()
        sender, target = (end[0] for end in ends)
        try:
            _send_message(sender, "sender", _receive_message(target, "target"))
            _send_message(target, "target", _receive_message(sender, "sender"))
            _receive_message(target, "target")
            _send_message(sender, "sender", "go")
            sent = _receive_message(sender, "sender")
            _send_message(target, "target", "compare")
            arrived = _receive_message(target, "target")
        finally:
            for child in children:
                child.terminate()
                child.join()
        if arrived != sent["checksum"]:
            raise CheckError(f"{self.library}: the bytes that arrived differ from those that were sent")
        rates = [self.mebibytes * 2**20 / seconds / 1e9 for seconds in sent["seconds"]]
        return {
            "library": self.library,
            "mebibytes": self.mebibytes,
            "gb_per_s": round(statistics.median(rates), 2),
            "gb_per_s_range": [round(min(rates), 2), round(max(rates), 2)],
        }


def _send_message(connection: Connection, who: str, message: Any) -> None:
    try:
        connection.send(message)
    except OSError:
        _receive_message(connection, who)  # raises the reason if the process sent one before it ended
        raise CheckError(f"the {who} of the copy ended") from None


def _receive_message(connection: Connection, who: str) -> Any:
    if not connection.poll(_TIMEOUT):
        raise CheckError(f"the {who} of the copy sends nothing within {_TIMEOUT:g} s")
    try:
        message = connection.recv()
    except (EOFError, OSError):
        raise CheckError(f"the {who} of the copy ended") from None
    if isinstance(message, _Failed):
        raise CheckError(f"the {who} of the copy failed: {message.reason}")
    return message


@dataclass(frozen=True)
class _Failed:
    reason: str


def _guarded(run: Any, copy: MemoryCopy, connection: Connection) -> None:
    try:
        run(copy, connection)
    except Exception as e:  # the parent reports it
        connection.send(_Failed(f"{type(e).__name__}: {e}"))
        raise


def _send(copy: MemoryCopy, connection: Connection) -> None:
    import torch

    buffer = torch.randint(-128, 128, (copy.mebibytes * 2**20,), dtype=torch.int8, device=copy.device)
    engine = _engine(copy, buffer)
    theirs = connection.recv()
    connection.send(engine.address())
    engine.connect(theirs)
    connection.recv()
    engine.write()  # the first write connects
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        engine.write()
        seconds.append(time.perf_counter() - start)
    connection.send({"seconds": seconds, "checksum": _checksum(buffer)})
    connection.recv()


def _receive(copy: MemoryCopy, connection: Connection) -> None:
    import torch

    buffer = torch.zeros(copy.mebibytes * 2**20, dtype=torch.int8, device=copy.device)
    engine = _engine(copy, buffer)
    connection.send(engine.address())
    engine.accept(connection.recv())
    connection.send("accepted")
    connection.recv()
    connection.send(_checksum(buffer))
    connection.recv()


def _checksum(buffer: Any) -> str:
    import hashlib

    if buffer.is_cuda:
        import torch

        torch.cuda.synchronize()
    return hashlib.sha256(buffer.cpu().numpy().tobytes()).hexdigest()


def _engine(copy: MemoryCopy, buffer: Any) -> _Nixl | _Mooncake:
    return _Nixl(buffer) if copy.library == "nixl" else _Mooncake(buffer)


class _Nixl:
    """NIXL over UCX, as SGLang sets it up (`disaggregation/nixl/conn.py`)."""

    def __init__(self, buffer: Any) -> None:
        import uuid

        from nixl._api import nixl_agent, nixl_agent_config

        self._agent = nixl_agent(str(uuid.uuid4()), nixl_agent_config(backends=["UCX"]))
        self._kind = "VRAM" if buffer.is_cuda else "DRAM"
        self._region = (buffer.data_ptr(), buffer.numel(), buffer.get_device() if buffer.is_cuda else 0)
        self._memory = self._agent.register_memory([(*self._region, "")], self._kind)
        self._peer = ""
        self._theirs: Any = None

    def address(self) -> tuple[bytes, tuple[int, int, int]]:
        return self._agent.get_agent_metadata(), self._region

    def connect(self, theirs: tuple[bytes, tuple[int, int, int]]) -> None:
        metadata, self._theirs = theirs
        self._peer = self._agent.add_remote_agent(metadata)

    def accept(self, theirs: tuple[bytes, tuple[int, int, int]]) -> None:
        """Do nothing: the sender writes without this side's help."""

    def write(self) -> None:
        ours = self._agent.get_xfer_descs([self._region], self._kind)
        theirs = self._agent.get_xfer_descs([self._theirs], self._kind)
        handle = self._agent.initialize_xfer("WRITE", ours, theirs, self._peer)
        state = self._agent.transfer(handle)
        end = time.monotonic() + _TIMEOUT
        while state == "PROC":
            state = self._agent.check_xfer_state(handle)
            assert time.monotonic() < end, f"NIXL does not end the transfer within {_TIMEOUT:g} s"
        assert state == "DONE", f"NIXL ends the transfer with {state}"
        self._agent.release_xfer_handle(handle)


class _Mooncake:
    """Mooncake over TCP, as SGLang sets it up (`distributed/device_communicators/mooncake_transfer_engine.py`)."""

    def __init__(self, buffer: Any) -> None:
        from mooncake.engine import TransferEngine

        self._engine = TransferEngine()
        assert self._engine.initialize(_HOST, "P2PHANDSHAKE", "tcp", "") == 0, "mooncake does not start"
        self._pointer, self._size = buffer.data_ptr(), buffer.numel()
        assert self._engine.register_memory(self._pointer, self._size) == 0, "mooncake does not take the memory"
        self._session, self._theirs = "", 0

    def address(self) -> tuple[str, int]:
        return f"{_HOST}:{self._engine.get_rpc_port()}", self._pointer

    def connect(self, theirs: tuple[str, int]) -> None:
        self._session, self._theirs = theirs

    def accept(self, theirs: tuple[str, int]) -> None:
        """Do nothing: the sender writes without this side's help."""

    def write(self) -> None:
        status = self._engine.transfer_sync_write(self._session, self._pointer, self._theirs, self._size)
        assert status == 0, f"mooncake ends the transfer with {status}"
