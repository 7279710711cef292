"""The HTTP client for everything that is no leg: worker cards, load reports, token counts, server information."""

from __future__ import annotations

import aiohttp

from sun_sglang.router.deadlines import Deadlines


class OversizedError(aiohttp.ClientError):
    """A reply is larger than its bound."""


def new_session(deadlines: Deadlines) -> aiohttp.ClientSession:
    """Return a client session. It limits only connecting; each request sets its own limit.

    The session decompresses no body and keeps no cookie: a small compressed reply could fill the memory, and cookies
    could.
    """
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=deadlines.keepalive)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=deadlines.connect)
    headers = {"Accept-Encoding": "identity"}
    return aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        headers=headers,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


async def read_at_most(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """Read a reply's body up to a bound.

    Args:
        response: the reply, whose header was read.
        max_bytes: size that the body may have.

    Raises:
        OversizedError: the body is larger. The rest of it is not read, and the connection is closed.
    """
    pieces: list[bytes] = []
    size = 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > max_bytes:
            response.close()
            raise OversizedError(f"its answer is over {max_bytes} bytes")
        pieces.append(piece)
    return b"".join(pieces)


def describe_error(error: Exception) -> str:
    """Return the reason of a session's error for humans; aiohttp's own texts are long, or missing."""
    match error:
        case OversizedError():
            return str(error)
        case aiohttp.ClientConnectorError():
            return f"cannot connect to {error.host}:{error.port} ({error.os_error.strerror or error.os_error})"
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            return "it closed the connection without an answer"
        case aiohttp.ClientPayloadError():
            return "the connection broke in the middle of an answer"
        case TimeoutError():
            return "timed out"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
