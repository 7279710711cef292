"""Name the client's field in an error about a field of its chat completion. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from sun_sglang.errors import RequestError


@contextmanager
def named_for_client(names: Mapping[str, str]) -> Iterator[None]:
    """Raise the body's errors with the names of the client's API.

    Args:
        names: fields of a chat completion, with their names in that API.

    Raises:
        RequestError: as the body.
    """
    try:
        yield
    except RequestError as error:
        if error.param is None or error.param not in names:
            raise
        own = names[error.param]
        message = error.message.replace(f"`{error.param}", f"`{own}", 1)
        raise RequestError(error.status, message, param=own, code=error.code) from error
