"""Keep the result of each part of a long benchmark in a file, so that an interrupted benchmark continues."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sun_sglang.files.replace_file import replace_file


def read_stored(file: Path, subject: Mapping[str, object]) -> dict[str, Any] | None:
    """Return the stored result of a part; None where there is none, or one of another subject.

    Args:
        file: the file of the part.
        subject: what the result depends on, as JSON values.
    """
    if not file.exists():
        return None
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found if all(found.get(key) == value for key, value in subject.items()) else None


def stored(file: Path, subject: Mapping[str, object], run: Callable[[], Mapping[str, object]]) -> dict[str, Any]:
    """Return the stored result of a part, or run the part and store its result beside its subject.

    Args:
        file: the file of the part.
        subject: what the result depends on, as JSON values.
        run: returns the result, as JSON values.
    """
    found = read_stored(file, subject)
    if found is not None:
        return found
    content = {**subject, **run()}
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, lambda new: new.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8"))
    return content


def stored_folder(out: Path, make: Callable[[Path], object]) -> Path:
    """Return a folder that is there, or make it: whole, or not at all.

    Args:
        out: the folder.
        make: writes it to a path that does not exist.
    """
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
            whole = Path(folder) / out.name
            make(whole)
            whole.rename(out)
    return out
