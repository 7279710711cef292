"""Reading a worker's reply up to a size. I/O."""

from __future__ import annotations

import aiohttp


class OversizedError(aiohttp.ClientError):
    """A reply is larger than anything that is expected there."""


async def read_at_most(response: aiohttp.ClientResponse, most: int) -> bytes:
    """Read a reply's body.

    Args:
        response: the reply, whose header was read.
        most: bytes that the body may have.

    Raises:
        OversizedError: the body has more. The rest of it is not read, and the connection is closed.
    """
    pieces: list[bytes] = []
    size = 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > most:
            response.close()
            raise OversizedError(f"its answer is over {most} bytes")
        pieces.append(piece)
    return b"".join(pieces)
