"""The result of one leg: a response, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class LegFailure:
    """A leg ended without a response.

    Attributes:
        detail: the reason, for humans.
        refused: no connection was made, so the worker has nothing of the request.
        stale: the connection was kept from an earlier request and closed without a response. A server may close an idle
            connection at any time, so this alone is no fault of the worker.
        oversized: the response was too large; another worker's response would be as large.
        ours: the router had no descriptor for a connection.
    """

    detail: str
    refused: bool = False
    stale: bool = False
    oversized: bool = False
    ours: bool = False


@dataclass(frozen=True, slots=True)
class LegResponse:
    """A worker's response to a leg.

    Attributes:
        status: HTTP status.
        head: the whole body; of a stream, its bytes up to the end of the first event at least.
        streamed: more of the body follows.
    """

    status: int
    head: bytes
    streamed: bool = False


LegResult: TypeAlias = LegFailure | LegResponse
