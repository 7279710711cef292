"""Find the Python that has llmcompressor: SGLang 0.5.23 and llmcompressor 0.13 require different transformers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import sun_sglang
from sun_sglang.errors import QuantizeError

PYTHON_VARIABLE = "SUN_QUANTIZE_PYTHON"
PLACE = Path("build/quantize/venv/bin/python")
"""Where `make quantize-env` puts it, in a checkout."""

_PACKAGES = ("llmcompressor", "compressed-tensors", "torch", "transformers", "pydantic", "PyYAML")
# the code in `compress/` relies on this version's modules
_LLMCOMPRESSOR = "0.13."
_FIX = "run `make quantize-env`, or name with --python one that has requirements/quantize.txt"
_CODE = """
import importlib.metadata, json, sys
def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
print(json.dumps({name: version(name) for name in sys.argv[1:]}))
"""
_SECONDS = 60


class Environment(NamedTuple):
    """An environment that can quantize.

    Attributes:
        python: its interpreter.
        versions: version of each package that matters.
    """

    python: Path
    versions: Mapping[str, str]


def find_environment(given: Path | None) -> Environment:
    """Return the environment of a Python, of `SUN_QUANTIZE_PYTHON`, or of `make quantize-env`.

    Args:
        given: an interpreter; None to look for one.

    Raises:
        QuantizeError: there is none, it does not run, or it lacks a package.
    """
    named, source = given, "--python"
    if named is None and os.environ.get(PYTHON_VARIABLE):
        named, source = Path(os.environ[PYTHON_VARIABLE]), PYTHON_VARIABLE
    if named is not None:
        if not named.is_file():
            raise QuantizeError(f"{source}: {named}: no such file; give the path of a Python")
        return _checked(named, source)
    # relative to the checkout, wherever the command is run
    checkout = Path(sun_sglang.__file__).parents[1]
    found = next((place for place in (Path.cwd() / PLACE, checkout / PLACE) if place.is_file()), None)
    if found is None:
        raise QuantizeError(f"llmcompressor is not installed here; {_FIX}")
    return _checked(found, str(found))


def _checked(python: Path, source: str) -> Environment:
    # not resolved: an environment is the directory of the link
    python = python.absolute()
    try:
        done = subprocess.run(
            [str(python), "-P", "-c", _CODE, *_PACKAGES],
            capture_output=True,
            text=True,
            check=True,
            timeout=_SECONDS,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        )
        versions = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as e:
        raise QuantizeError(f"{source}: {python}: does not run as Python 3.11 or later ({e}); {_FIX}") from e
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        raise QuantizeError(f"{source}: {python}: lacks {', '.join(missing)}; {_FIX}")
    if not versions["llmcompressor"].startswith(_LLMCOMPRESSOR):
        raise QuantizeError(
            f"{source}: {python}: has llmcompressor {versions['llmcompressor']}, and {_LLMCOMPRESSOR}x is needed; "
            f"{_FIX}"
        )
    return Environment(python, versions)


def environment_variables(code: Path) -> dict[str, str]:
    """Return the variables of the process that quantizes.

    Args:
        code: a directory that holds this package and nothing else, so that the packages of the environment count.
    """
    return {
        **os.environ,
        "PYTHONPATH": str(code),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # the model is a directory; no library may look for a newer one
        "HF_HUB_OFFLINE": "1",
    }


def package_directory() -> Path:
    """Return the directory of this package."""
    return Path(sys.modules["sun_sglang"].__file__ or "").parent
