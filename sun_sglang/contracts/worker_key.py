"""The worker key: the secret that a worker requires in every HTTP request, and that the router sends.

A worker receives it in an environment variable and never on a command line, which every user of the machine can read.
The launcher makes the key; the fleet file gives it to the router.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Final

WORKER_KEY_VARIABLE: Final = "SUN_WORKER_KEY"
UNAUTHORIZED_BODY: Final = (
    b'{"error":{"message":"this worker requires its deployment\'s worker key: Authorization: Bearer KEY","code":401}}'
)
"""Body of a worker's 401."""


def read_key(environ: Mapping[str, str]) -> str | None:
    """Return the worker key of a process; None where it requires none."""
    return environ.get(WORKER_KEY_VARIABLE) or None


def bearer(key: str | None) -> dict[str, str]:
    """Return the headers that carry a key; an empty dict for None."""
    return {"Authorization": f"Bearer {key}"} if key else {}


def is_authorized(authorization: str, key: str) -> bool:
    """Return whether an `Authorization` header carries the key. Takes constant time for keys of equal length."""
    scheme, _, given = authorization.partition(" ")
    return scheme.lower() == "bearer" and secrets.compare_digest(given.encode("utf-8", "replace"), key.encode())
