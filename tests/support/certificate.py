"""Self-signed certificates."""

from __future__ import annotations

import subprocess
from pathlib import Path


def self_signed(home: Path, name: str) -> tuple[Path, Path]:
    """Write a self-signed certificate for a host name and its private key to `home`, and return both files."""
    cert, key = home / "cert.pem", home / "key.pem"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    subprocess.run(["openssl", "req", "-x509", *kind, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key
