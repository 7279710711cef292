"""The SGLang versions that the product was run on, and the rule for every other version."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterable, Mapping

from sun_sglang.errors import PatchError

RUN_ON = ("0.5.21", "0.5.22", "0.5.23")
ANY_VERSION = "SUN_ANY_SGLANG"
PLUGIN = "sun"  # the entry point in pyproject.toml
CHOSEN_PLUGINS = "SGLANG_PLUGINS"
INACTIVE = "is inactive"


def on(does: str, versions: Iterable[str] = RUN_ON) -> dict[str, str]:
    """Return what a patch does on each of these versions, where it does the same on all."""
    return dict.fromkeys(versions, does)


def inactive(because: str, versions: Iterable[str]) -> dict[str, str]:
    """Return what a patch does on versions that need none; `make engine-check` fails where it is applied there."""
    return on(f"{INACTIVE}: {because}", versions)


def installed_version() -> str | None:
    """Return the installed SGLang's version without a build's suffix (`+cu130`); None without SGLang."""
    try:
        return importlib.metadata.version("sglang").partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def require_run_on(version: str | None, environ: Mapping[str, str] = os.environ) -> None:
    """Raise unless the product was run on this version, or the environment permits any.

    A hook checks the signature of its target, and cannot check what the code around the target means.

    Raises:
        PatchError: names the version, those that it was run on, and two ways out.
    """
    if version in RUN_ON or environ.get(ANY_VERSION) == "1":
        return
    raise PatchError(
        f"SGLang {version} is installed, and sun-sglang was run on {', '.join(RUN_ON)} only: install one of these, or "
        f"check this one with `make engine-check VERSION={version}` and then set {ANY_VERSION}=1"
    )


def require_chosen(environ: Mapping[str, str] = os.environ) -> None:
    """Raise if the environment makes SGLang leave out this plugin (`sglang/srt/plugins/__init__.py`).

    Raises:
        PatchError: names the variable and its value.
    """
    chosen = environ.get(CHOSEN_PLUGINS, "")
    if chosen and PLUGIN not in (name.strip() for name in chosen.split(",")):
        raise PatchError(
            f"{CHOSEN_PLUGINS}={chosen} makes SGLang leave out sun-sglang's hooks: add `{PLUGIN}` to it, or unset it"
        )
