"""Checkpoints to resume from: mark each one that was written whole, and find the newest marked one.

A kill or a full disk can end a save at any byte. `transformers` then leaves a directory that looks like a checkpoint. A
disk that loses power can leave a file of the right size with zeros in it.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers import TrainerCallback

from sun_sglang.files.replace_file import replace_file, sync_file
from sun_sglang.train.trainer.launched_processes import is_first_process, wait_for_all

MARK = "whole.json"
_SAMPLES = 256
_SAMPLE_BYTES = 1 << 16
_NAME = re.compile(r"checkpoint-(\d+)")


class FoundCheckpoints(NamedTuple):
    """The checkpoints of a directory.

    Attributes:
        newest: the newest whole checkpoint; None if there is none.
        broken: newer checkpoints that are not whole.
    """

    newest: Path | None
    broken: Sequence[Path]


def find_checkpoints(work: Path) -> FoundCheckpoints:
    """Return the newest checkpoint of a directory whose files have the sizes and digests that its mark records."""
    broken: list[Path] = []
    for directory in sorted(_checkpoints(work), key=_step, reverse=True):
        if _is_whole(directory):
            return FoundCheckpoints(directory, broken)
        broken.append(directory)
    return FoundCheckpoints(None, broken)


class MarkWhole(TrainerCallback):  # type: ignore[misc] # transformers is not followed, so its classes are Any
    """Marks a checkpoint after every process has saved its part, then removes the older ones."""

    def on_save(self, args: Any, state: Any, _control: Any, **_kwargs: object) -> None:
        """Mark the checkpoint of this step."""
        wait_for_all()
        if not is_first_process():
            return
        work = Path(args.output_dir)
        saved = work / f"checkpoint-{state.global_step}"
        mark_whole(saved)
        for directory in _checkpoints(work):
            if directory != saved:
                shutil.rmtree(directory)


def mark_whole(checkpoint: Path) -> None:
    """Write every file of a checkpoint to the disk, then the mark with their sizes and digests."""
    contents = {}
    for file in sorted(path for path in checkpoint.rglob("*") if path.is_file() and not path.name.startswith(MARK)):
        sync_file(file)
        contents[str(file.relative_to(checkpoint))] = _content(file)
    replace_file(checkpoint / MARK, lambda new: new.write_text(json.dumps(contents), encoding="utf-8"))


def _content(file: Path) -> list[int | str]:
    """Return the size of a file in bytes, and a digest: of all bytes up to 16 MiB, else of 256 samples of 64 KiB.

    Samples at even distances find a range of lost bytes, and take milliseconds where all bytes would take minutes.
    """
    size, digest = file.stat().st_size, hashlib.blake2b(digest_size=16)
    with file.open("rb") as stream:
        if size <= _SAMPLES * _SAMPLE_BYTES:
            digest.update(stream.read())
        else:
            for i in range(_SAMPLES):
                stream.seek((size - _SAMPLE_BYTES) * i // (_SAMPLES - 1))
                digest.update(stream.read(_SAMPLE_BYTES))
    return [size, digest.hexdigest()]


def _is_whole(checkpoint: Path) -> bool:
    try:
        contents = json.loads((checkpoint / MARK).read_text(encoding="utf-8"))
        return bool(contents) and all(_content(checkpoint / name) == content for name, content in contents.items())
    except (OSError, ValueError, AttributeError):
        return False


def _checkpoints(work: Path) -> list[Path]:
    return [path for path in work.glob("checkpoint-*") if path.is_dir() and _NAME.fullmatch(path.name)]


def _step(checkpoint: Path) -> int:
    found = _NAME.fullmatch(checkpoint.name)
    assert found
    return int(found[1])
