"""Checkpoints to resume from: mark each one that was written whole, and find the newest marked one.

A kill or a full disk can end a save at any byte. `transformers` then leaves a directory that looks like a checkpoint.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers import TrainerCallback

from sun_sglang.train.replace_file import replace_file, sync_file
from sun_sglang.train.trainer.launched_processes import is_first_process, wait_for_all

MARK = "whole.json"
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
    """Return the newest checkpoint of a directory whose files have the sizes that its mark records."""
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
    """Write every file of a checkpoint to the disk, then the mark with their sizes."""
    sizes = {}
    for file in sorted(path for path in checkpoint.rglob("*") if path.is_file() and not path.name.startswith(MARK)):
        sync_file(file)
        sizes[str(file.relative_to(checkpoint))] = file.stat().st_size
    replace_file(checkpoint / MARK, lambda new: new.write_text(json.dumps(sizes), encoding="utf-8"))


def _is_whole(checkpoint: Path) -> bool:
    try:
        sizes = json.loads((checkpoint / MARK).read_text(encoding="utf-8"))
        return bool(sizes) and all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def _checkpoints(work: Path) -> list[Path]:
    return [path for path in work.glob("checkpoint-*") if path.is_dir() and _NAME.fullmatch(path.name)]


def _step(checkpoint: Path) -> int:
    found = _NAME.fullmatch(checkpoint.name)
    assert found
    return int(found[1])
