"""The installed SGLang version, the rule for unsupported versions, and what a hook does on each version."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterable, Mapping

from sun_sglang.errors import PatchError
from sun_sglang.sglang_versions import SUPPORTED_VERSIONS

ANY_VERSION_VARIABLE = "SUN_ANY_SGLANG"
PLUGIN = "sun"  # the entry point in pyproject.toml
PLUGINS_VARIABLE = "SGLANG_PLUGINS"
INACTIVE = "is inactive"


def on(does: str, versions: Iterable[str] = SUPPORTED_VERSIONS) -> dict[str, str]:
    """Return the entries of a patch that does the same on each of these versions."""
    return dict.fromkeys(versions, does)


def inactive(because: str, versions: Iterable[str]) -> dict[str, str]:
    """Return the entries of a patch for versions that do not need it; `make engine-check` fails if it applies there."""
    return on(f"{INACTIVE}: {because}", versions)


def installed_version() -> str | None:
    """Return the installed SGLang's version without a build's suffix (`+cu130`); None without SGLang."""
    try:
        return importlib.metadata.version("sglang").partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def require_supported(version: str | None, environ: Mapping[str, str] = os.environ) -> None:
    """Raise unless the version is supported, or the environment permits any version.

    A hook checks the signature of its target. It cannot check the meaning of the code around the target.

    Raises:
        PatchError: names the version, the supported versions, and two solutions.
    """
    if version in SUPPORTED_VERSIONS or environ.get(ANY_VERSION_VARIABLE) == "1":
        return
    supported = ", ".join(SUPPORTED_VERSIONS)
    raise PatchError(
        f"SGLang {version} is installed, and sun-sglang supports {supported} only: install one of these, or "
        f"check this one with `make engine-check VERSION={version}` and then set {ANY_VERSION_VARIABLE}=1"
    )


def require_plugin_selected(environ: Mapping[str, str] = os.environ) -> None:
    """Raise if the environment makes SGLang skip this plugin (`sglang/srt/plugins/__init__.py`).

    Raises:
        PatchError: names the variable and its value.
    """
    selected = environ.get(PLUGINS_VARIABLE, "")
    if selected and PLUGIN not in (name.strip() for name in selected.split(",")):
        raise PatchError(
            f"{PLUGINS_VARIABLE}={selected} makes SGLang skip sun-sglang's hooks: add `{PLUGIN}` to it, or unset it"
        )
