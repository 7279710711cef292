"""The exception for a mistake in the settings, the data or the traces of a benchmark."""

from __future__ import annotations

from pathlib import Path

from sun_sglang.errors import UserError


class BenchError(UserError):
    """A setting, a dataset or a trace of a benchmark is wrong; the message names the flag or the file and line."""


class FileError(BenchError):
    """A dataset or a trace cannot be used.

    Args:
        file: the file.
        line: number of the line, from 1; None where the whole file is meant.
        problem: the reason, and the fix.
    """

    def __init__(self, file: Path, line: int | None, problem: str) -> None:
        self.file = file
        self.line = line
        self.problem = problem
        super().__init__(f"{file}:{line}: {problem}" if line is not None else f"{file}: {problem}")


class FlagError(BenchError):
    """The value of a flag is wrong.

    Args:
        field: the field of the settings, such as `request_rate`.
        problem: the reason, and the fix.
    """

    def __init__(self, field: str, problem: str) -> None:
        self.field = field
        self.problem = problem
        super().__init__(f"{flag_name(field)}: {problem}")


def flag_name(field: str) -> str:
    """Return the flag of a field of the settings: `request_rate` is set by `--request-rate`."""
    return "--" + field.replace("_", "-")
