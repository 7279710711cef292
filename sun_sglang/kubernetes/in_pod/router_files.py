"""Make the run directory of the router's pod, before the router starts.

    python -m sun_sglang.kubernetes.in_pod.router_files FLEET.json RUN_DIR

The fleet file is copied, since the router writes its changes to it. A copy that is there stays: it has the tasks that
were added since, and it is there only where the containers of the same pod start again.
"""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

from sun_sglang.contracts.fleet_file import FLEET_FILE, load_fleet, write_fleet
from sun_sglang.errors import UserError
from sun_sglang.files.private_file import write_private


def make_run_dir(source: Path, directory: Path) -> None:
    """Copy the fleet file, and make the admin key with which discovery changes the workers of this router.

    Raises:
        FleetError: the source cannot be read.
        OSError: the directory cannot be written.
    """
    fleet = load_fleet(source)
    target = directory / FLEET_FILE
    if fleet.admin_key_file is not None:
        key = directory / Path(fleet.admin_key_file).name
        if not key.exists():
            write_private(key, secrets.token_urlsafe(32).encode("ascii"))
    if not target.exists():
        write_fleet(target, fleet)


def main(arguments: list[str]) -> int:
    """Make the directory; return the exit code."""
    try:
        make_run_dir(Path(arguments[0]), Path(arguments[1]))
    except (UserError, OSError) as e:
        sys.stderr.write(f"{e}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
