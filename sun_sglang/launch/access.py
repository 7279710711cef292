"""How the launcher and the CLI reach a router that asks for keys or speaks TLS: what they need is in its directory."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import ssl
from pathlib import Path
from typing import NamedTuple

import aiohttp

from sun_sglang.launch.plan import ADMIN_KEY

_CERT_END = "-----END CERTIFICATE-----"


class RouterAccess(NamedTuple):
    """The launcher's own admin key, and the certificate that the router shows; None where there is none."""

    key: str | None = None
    fingerprint: bytes | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Headers of every request."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    @property
    def ssl(self) -> aiohttp.Fingerprint | bool:
        """How the router is known: by the certificate itself, whatever name it is for and whoever signed it."""
        return aiohttp.Fingerprint(self.fingerprint) if self.fingerprint else True


def write_admin_key(run_dir: Path) -> None:
    """Make a new key for this launch, in a file that only this user can read."""
    path = run_dir / ADMIN_KEY
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(secrets.token_urlsafe(32))


def read_access(run_dir: Path) -> RouterAccess:
    """How to reach the router of the deployment in a directory."""
    try:
        key: str | None = (run_dir / ADMIN_KEY).read_text(encoding="ascii")
        fleet = json.loads((run_dir / "fleet.json").read_bytes())
    except (FileNotFoundError, PermissionError):
        return RouterAccess()
    cert = fleet["router"].get("tls_cert")
    return RouterAccess(key, _fingerprint(Path(cert)) if cert else None)


def _fingerprint(cert: Path) -> bytes:
    """SHA-256 of the first certificate in a PEM file, which is the server's own."""
    text = cert.read_text(encoding="ascii", errors="ignore")
    first = text[text.index("-----BEGIN CERTIFICATE-----") : text.index(_CERT_END) + len(_CERT_END)]
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(first)).digest()
