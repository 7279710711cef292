"""Read the credentials for a router from its run directory: the admin key and the TLS certificate."""

from __future__ import annotations

import hashlib
import json
import secrets
import ssl
from pathlib import Path
from typing import NamedTuple

import aiohttp

from sun_sglang.contracts.fleet_file import FLEET_FILE
from sun_sglang.contracts.worker_key import bearer
from sun_sglang.files.private_file import write_private
from sun_sglang.launch.planning.plan import ADMIN_KEY, WORKER_KEY

_CERT_END = "-----END CERTIFICATE-----"


class RouterAccess(NamedTuple):
    """Credentials for one router.

    Attributes:
        key: the launcher's own admin key; None where there is none.
        fingerprint: SHA-256 of the router's certificate; None where the router serves plain HTTP.
    """

    key: str | None = None
    fingerprint: bytes | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Headers of every request to the router."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    @property
    def ssl(self) -> aiohttp.Fingerprint | bool:
        """For aiohttp: pin the certificate's fingerprint, and skip the checks of its name and its CA."""
        return aiohttp.Fingerprint(self.fingerprint) if self.fingerprint else True


def new_key(path: Path) -> str:
    """Return a new random key, which is also written to a file that only this user can read."""
    key = secrets.token_urlsafe(32)
    write_private(path, key.encode("ascii"))
    return key


def read_key_file(path: Path) -> str:
    """Return the key in a file; empty where there is none."""
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""


def read_access(run_dir: Path) -> RouterAccess:
    """Return the credentials for the router of the deployment in a run directory.

    Of the fleet file, only the certificate's path is read: a file of another version, or with a key that an operator
    added, must not cut off the router that runs.
    """
    try:
        key: str | None = (run_dir / ADMIN_KEY).read_text(encoding="ascii")
    except OSError:
        return RouterAccess()
    try:
        cert = json.loads((run_dir / FLEET_FILE).read_bytes())["router"].get("tls_cert")
        return RouterAccess(key, _fingerprint(Path(cert)) if cert else None)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        # the file is being written or is broken: a router without TLS can still be reached
        return RouterAccess(key)


def worker_headers(run_dir: Path) -> dict[str, str]:
    """Return the headers of a request that goes to a worker of a deployment directly, past its router."""
    try:
        return bearer((run_dir / WORKER_KEY).read_text(encoding="ascii"))
    except FileNotFoundError:
        return {}


def _fingerprint(cert: Path) -> bytes:
    """Return the SHA-256 of the first certificate in a PEM file, which is the server's own."""
    text = cert.read_text(encoding="ascii", errors="ignore")
    first = text[text.index("-----BEGIN CERTIFICATE-----") : text.index(_CERT_END) + len(_CERT_END)]
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(first)).digest()
