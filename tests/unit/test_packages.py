"""The list of packages in `pyproject.toml`: an installation without `-e` has no other."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOPS = ("sun_sglang", "bench", "cli", "patches")


def test_packages_that_are_installed_are_all_packages_of_the_tree() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {file.parent.relative_to(ROOT) for top in TOPS for file in (ROOT / top).rglob("*.py")}
    names = {".".join(folder.parts) for folder in folders if "__pycache__" not in folder.parts}
    assert set(settings["packages"]) == {
        name if name.startswith("sun_sglang") else f"sun_sglang.{name}" for name in names
    }
