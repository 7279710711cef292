"""The record of a deployment on Ray: `ray.json` in its run directory, by which a later launcher finds its workers."""

from __future__ import annotations

import secrets
from pathlib import Path

from pydantic import ValidationError

from sun_sglang.errors import LaunchError
from sun_sglang.strict import Strict

_FILE = "ray.json"


class RayRecord(Strict):
    """Where the workers of a deployment are.

    Attributes:
        address: the cluster, as the launcher was given it.
        namespace: Ray's namespace of the deployment's actors, which no other deployment has.
    """

    address: str
    namespace: str


def new_record(address: str) -> RayRecord:
    """Return the record of a new deployment."""
    return RayRecord(address=address, namespace=f"sun-sglang-{secrets.token_hex(8)}")


def read_record(run_dir: Path) -> RayRecord | None:
    """Return the record in a run directory; None where there is none.

    Raises:
        LaunchError: it cannot be read: workers may run that only it names.
    """
    try:
        return RayRecord.model_validate_json((run_dir / _FILE).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValidationError) as e:
        raise LaunchError(
            f"{run_dir / _FILE} cannot be read, so the workers that it names cannot be found: {e}; `ray list actors` "
            "shows them; remove the file once none runs"
        ) from e


def write_record(run_dir: Path, record: RayRecord) -> None:
    """Write the record, in one step."""
    partial = run_dir / f".{_FILE}"
    partial.write_text(record.model_dump_json(indent=1), encoding="utf-8")
    partial.replace(run_dir / _FILE)


def remove_record(run_dir: Path) -> None:
    """Remove the record, since no worker is left."""
    (run_dir / _FILE).unlink(missing_ok=True)
