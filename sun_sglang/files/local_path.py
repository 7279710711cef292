"""Paths in files that users write: `~`, `$VAR` and `${VAR}` are expanded, and the rest is relative to the file."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sun_sglang.errors import UserError

# the first characters of a path that is meant as one, not as the id of a model on the Hub
STARTS = (".", "/", "~", "$")
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


def local_path(text: str, base: Path) -> Path:
    """Return the absolute path of a text.

    Args:
        text: a path, such as `./model`, `~/model` or `${HOME}/model`.
        base: directory that a relative path starts from.

    Raises:
        UserError: a variable is not set, the home of a user is unknown, or the text is no path.
    """
    missing = [name for pair in _VARIABLE.findall(text) for name in pair if name and name not in os.environ]
    if missing:
        raise UserError(f"{text!r} is not a path (the variable `{missing[0]}` is not set)")
    try:
        return (base / Path(os.path.expandvars(text)).expanduser()).resolve()
    except (RuntimeError, ValueError, OSError) as e:  # an unknown ~user, a NUL byte, a name too long
        raise UserError(f"{text!r} is not a path ({e})") from e
