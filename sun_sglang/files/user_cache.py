"""Keep facts that take seconds to compute in a cache directory that this user can write.

A container may have a read-only home, or a user without one. The cache is then a private directory below the temporary
directory.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from sun_sglang.errors import UserError

_NAME = "sun-sglang"
# variables of the libraries that compile or download at the start of SGLang, with their place in the cache directory
_LIBRARIES: Mapping[str, str] = {
    "XDG_CACHE_HOME": "",
    "SGLANG_CACHE_DIR": "sglang",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
    "TORCH_EXTENSIONS_DIR": "torch_extensions",
    "TRITON_CACHE_DIR": "triton",
    "TVM_FFI_CACHE_DIR": "tvm-ffi",
    "FLASHINFER_WORKSPACE_BASE": "",
    "CUDA_CACHE_PATH": "nv",
    "NUMBA_CACHE_DIR": "numba",
    "MPLCONFIGDIR": "matplotlib",
}
_Content = TypeVar("_Content", bound=BaseModel)


def read_cached(name: str, model: type[_Content]) -> _Content | None:
    """Return the content of a cached file; None where there is none, or where it cannot be read."""
    directory = cache_directory(os.environ)
    if directory is None:
        return None
    try:
        return model.model_validate_json((directory / _NAME / name).read_bytes())
    except (OSError, ValidationError):
        return None


def write_cached(name: str, content: BaseModel) -> None:
    """Write a file of the cache, where one can be written; without it, the next call computes the content again."""
    directory = cache_directory(os.environ)
    if directory is None:
        return
    file = directory / _NAME / name
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        partial.write_text(content.model_dump_json(), encoding="utf-8")
        partial.replace(file)


def home_cache(environ: Mapping[str, str]) -> Path:
    """Return the cache directory that the environment names; `~` stays where no home is known."""
    given = environ.get("XDG_CACHE_HOME")
    return Path(given) if given else Path(os.path.expanduser("~")) / ".cache"  # noqa: PTH111 - Path raises without a home


def cache_directory(environ: Mapping[str, str]) -> Path | None:
    """Return a directory for caches that this process can write; None where there is none.

    Returns:
        the directory of `XDG_CACHE_HOME` or of the home, else a private one below the temporary directory.
    """
    usual = home_cache(environ)
    if usual.is_absolute() and is_writable(usual):
        return usual
    try:
        private = Path(tempfile.gettempdir()) / f"{_NAME}-{os.getuid()}"
        private.mkdir(mode=0o700, exist_ok=True)
        stat = private.lstat()
    except OSError:
        return None
    # another user could have made it, to give this one code that caches hold
    own = private.is_dir() and not private.is_symlink() and stat.st_uid == os.getuid() and not stat.st_mode & 0o022
    return private if own and os.access(private, os.W_OK | os.X_OK) else None


def engine_caches(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that give SGLang's libraries cache directories that this process can write.

    A variable that the user set stays. Models that lie in the home's Hugging Face cache are still found there.

    Raises:
        UserError: no directory can be written.
    """
    usual = home_cache(environ)
    at_home = usual.is_absolute() and is_writable(usual)
    if at_home and _has_temporary():
        return {}
    directory = cache_directory(environ)
    if directory is None:
        raise UserError(
            f"no directory for caches can be written: neither {usual} nor the temporary directory; set XDG_CACHE_HOME "
            "to one that can"
        )
    given = {name: str(directory / place) for name, place in _LIBRARIES.items()}
    if at_home:
        given = {"TORCHINDUCTOR_CACHE_DIR": given["TORCHINDUCTOR_CACHE_DIR"]}
    elif (usual / "huggingface" / "hub").is_dir():
        given["HF_HOME"] = str(usual / "huggingface")
    return {name: value for name, value in given.items() if name == "XDG_CACHE_HOME" or not environ.get(name)}


def _has_temporary() -> bool:
    try:
        return is_writable(Path(tempfile.gettempdir()))
    except OSError:
        return False


def is_writable(directory: Path) -> bool:
    """Return whether files can be made in a directory, which is created first where it does not exist."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(directory, os.W_OK | os.X_OK)
