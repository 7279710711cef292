"""The exceptions that end a stage early."""

from __future__ import annotations


class CheckError(AssertionError):
    """The machine, SGLang or this package behaves in a way that the stage does not accept."""


class Skipped(Exception):  # noqa: N818 - a skipped stage is no error
    """The stage cannot run here; the message gives the reason."""


def require(condition: bool, message: str) -> None:
    """Raise unless a condition holds.

    Raises:
        CheckError: the condition is false.
    """
    if not condition:
        raise CheckError(message)
