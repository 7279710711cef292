"""Read the JSON files of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sun_sglang.errors import CheckpointError


def read_json(path: Path, hint: str = "") -> dict[str, Any]:
    """Return the JSON object in a file.

    Args:
        path: the file.
        hint: the fix for a file that does not exist; empty where there is none.

    Raises:
        CheckpointError: the file does not exist, cannot be read, or holds no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise CheckpointError(f"{path}: not found" + (f"; {hint}" if hint else "")) from e
    except (OSError, ValueError, RecursionError) as e:
        raise CheckpointError(f"{path}: cannot be read ({e})") from e
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: is not a JSON object")
    return content
