"""The errors of a connection to a worker.

LegError                 no response, or not all of it
  NotConnectedError      no connection was made: the worker has nothing of the request
    ExhaustedError       the router itself cannot open another connection
  BrokenError            the connection ended before its response did
  NotHttpError           the bytes are not HTTP
"""

from __future__ import annotations

import errno

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM})


class LegError(OSError):
    """No response came, or not all of it. The text states the reason for humans."""


class NotConnectedError(LegError):
    """No connection to the worker was made. The text names the worker's address and the reason."""


class ExhaustedError(NotConnectedError):
    """The router itself cannot open another connection. No worker is at fault."""


class BrokenError(LegError):
    """The connection ended before its response did."""


class NotHttpError(LegError):
    """The worker sent bytes that are not HTTP."""


def is_exhausted(error: BaseException) -> bool:
    """Return whether the router lacked a descriptor, a local port or memory for a connection."""
    return isinstance(error, OSError) and error.errno in _EXHAUSTED
