"""How a stage ends early."""

from __future__ import annotations


class CheckError(AssertionError):
    """The machine, SGLang or this package did something that the stage does not accept."""


class Skipped(Exception):  # noqa: N818 - it is no error
    """The stage cannot run here; the message gives the reason."""


def require(condition: bool, message: str) -> None:
    """Raise unless a condition holds.

    Raises:
        CheckError: it does not.
    """
    if not condition:
        raise CheckError(message)
