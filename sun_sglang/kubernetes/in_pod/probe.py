"""The probe of a worker's container: exit 0 if the worker shows its card.

    python -m sun_sglang.kubernetes.in_pod.probe [--ready]

With `--ready` a worker that is stopping fails. A probe of kind `httpGet` cannot send the worker key, which is in a
Secret.
"""

from __future__ import annotations

import sys
from typing import Any

from sun_sglang.kubernetes.in_pod.worker_http import get_json

# as `contracts/worker_card.py`, which imports pydantic
CARD_PATH = "/sun/worker"


def obstacle(card: Any, *, ready: bool) -> str:
    """Return why a worker's card fails the probe; empty if it passes.

    Args:
        card: the answer of `GET /sun/worker`.
        ready: fail while the worker is stopping.
    """
    if not isinstance(card, dict) or "incarnation" not in card:
        return "this is no worker card"
    return "the worker is stopping" if ready and card.get("leaving") else ""


def main(arguments: list[str]) -> int:
    """Probe the worker; return the exit code."""
    try:
        reason = obstacle(get_json(CARD_PATH), ready="--ready" in arguments)
    except (OSError, ValueError) as e:
        reason = str(e) or type(e).__name__
    if reason:
        sys.stderr.write(f"{reason}\n")
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
