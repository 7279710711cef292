"""The files of `--input-file`: which task each is for, and which format it has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from sun_sglang.bench.load.errors import FileError, FlagError
from sun_sglang.bench.load.traces.azure import COLUMNS, parse_azure
from sun_sglang.bench.load.traces.mooncake import is_mooncake, parse_mooncake
from sun_sglang.bench.load.traces.trace import Trace
from sun_sglang.bench.load.workload.prompts.datasets import Dataset, parse_jsonl, parse_sharegpt


class InputFile(NamedTuple):
    """A file of `--input-file`. `task` is None where it is for all tasks."""

    task: str | None
    content: Dataset | Trace


def read_files(values: Iterable[str], tasks: Sequence[str], kind: str | None, block_size: int) -> list[InputFile]:
    """Return the files of `--input-file`.

    Args:
        values: `FILE` for all tasks, or `TASK=FILE`.
        tasks: names of the tasks.
        kind: format of all files; None: each from its content.
        block_size: tokens in a block of a Mooncake trace.

    Raises:
        FlagError: a value names an unknown task, or two files are for the same task.
        FileError: a file cannot be read or is wrong.
    """
    files: list[InputFile] = []
    for value in values:
        task, file = _split(value, tasks)
        if any(earlier.task == task for earlier in files):
            raise FlagError("input_file", f"two files are for {f'task `{task}`' if task else 'all tasks'}; give one")
        files.append(InputFile(task, _read(file, kind, block_size)))
    return files


def _split(value: str, tasks: Sequence[str]) -> tuple[str | None, Path]:
    # a task's name, which comes first, decides: `=` may stand in the names of files
    for task in sorted(tasks, key=len, reverse=True):
        if value.startswith(f"{task}="):
            return task, Path(value[len(task) + 1 :])
    task, equals, _ = value.partition("=")
    if equals and task and "/" not in task and not _exists(Path(value)):
        raise FlagError("input_file", f"`{value}` names an unknown task `{task}`; tasks: {', '.join(tasks)}")
    return None, Path(value)


def _exists(file: Path) -> bool:
    try:
        return file.exists()
    except OSError:  # the name is too long
        return False


def _read(file: Path, kind: str | None, block_size: int) -> Dataset | Trace:
    try:
        content = file.read_bytes()
    except (OSError, ValueError) as e:  # ValueError: the name has a NUL
        raise FileError(file, None, f"cannot be read: {e.strerror if isinstance(e, OSError) else e}") from e
    parsers: dict[str, Callable[[], Dataset | Trace]] = {
        "sharegpt": lambda: parse_sharegpt(file, content),
        "single_turn": lambda: parse_jsonl(file, content),
        "azure_trace": lambda: parse_azure(file, content),
        "mooncake_trace": lambda: parse_mooncake(file, content, block_size),
    }
    return parsers[kind or detect(content)]()


def detect(content: bytes) -> str:
    """Return the format of a file, by its first line: a dataset of JSONL where it is none of the others."""
    start = content.removeprefix(b"\xef\xbb\xbf").lstrip()
    first = start.partition(b"\n")[0]
    if start.startswith(b"["):
        return "sharegpt"
    if any(column.encode() in first for column in COLUMNS) and not start.startswith(b"{"):
        return "azure_trace"
    return "mooncake_trace" if is_mooncake(first) else "single_turn"
