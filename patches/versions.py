"""The rule for SGLang versions on which this package is not tested, and the text of what a hook does on a version."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterable, Mapping

from sun_sglang.contracts.sglang_versions import SUPPORTED_VERSIONS
from sun_sglang.errors import PatchError

ANY_VERSION_VARIABLE = "SUN_ANY_SGLANG"
PLUGIN = "sun"  # the entry point in pyproject.toml
PLUGINS_VARIABLE = "SGLANG_PLUGINS"
INACTIVE = "is inactive"


def on(does: str, versions: Iterable[str] = SUPPORTED_VERSIONS) -> dict[str, str]:
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


def require_supported(version: str | None, environ: Mapping[str, str] = os.environ) -> None:
    """Raise unless the product was run on this version, or the environment permits any.

    A hook checks the signature of its target, and cannot check what the code around the target means.

    Raises:
        PatchError: names the version, those that it was run on, and two ways out.
    """
    if version in SUPPORTED_VERSIONS or environ.get(ANY_VERSION_VARIABLE) == "1":
        return
    supported = ", ".join(SUPPORTED_VERSIONS)
    raise PatchError(
        f"SGLang {version} is installed, and sun-sglang was run on {supported} only: install one of these, or "
        f"check this one with `make engine-check VERSION={version}` and then set {ANY_VERSION_VARIABLE}=1"
    )


def require_plugin_selected(environ: Mapping[str, str] = os.environ) -> None:
    """Raise if the environment makes SGLang leave out this plugin (`sglang/srt/plugins/__init__.py`).

    Raises:
        PatchError: names the variable and its value.
    """
    chosen = environ.get(PLUGINS_VARIABLE, "")
    if chosen and PLUGIN not in (name.strip() for name in chosen.split(",")):
        raise PatchError(
            f"{PLUGINS_VARIABLE}={chosen} makes SGLang leave out sun-sglang's hooks: add `{PLUGIN}` to it, or unset it"
        )
