"""The last lines of a process's output."""

from __future__ import annotations

from sun_sglang.errors import END_MARK
from sun_sglang.launch.places.place import PlaceLostError, Running

_BYTES = 1 << 16
_LINE_CHARACTERS = 500


async def read_end(running: Running) -> bytes:
    """Return the last 64 KiB of what a start has written; empty where the output cannot be read."""
    try:
        return b"".join([chunk async for chunk in running.logs(-_BYTES)])
    except (OSError, PlaceLostError):
        return b""


def last_lines(output: bytes, lines: int) -> str:
    """Return the last lines of an output, each cut to 500 characters."""
    found = output.decode(errors="replace").splitlines()[-lines:]
    return "\n".join(line[:_LINE_CHARACTERS] for line in found)


def last_reason(output: bytes) -> str:
    """Return the last reason to end that a worker wrote to its output; empty if there is none."""
    reasons = [line for line in output.decode(errors="replace").splitlines() if line.startswith(END_MARK)]
    return reasons[-1].removeprefix(END_MARK) if reasons else ""
