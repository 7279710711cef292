"""The errors that end a check before it has a result."""

from __future__ import annotations

from sun_sglang.errors import UserError


class EngineCheckError(UserError):
    """The environment for a version cannot be made; the message names the package and the fix."""


class ConflictError(EngineCheckError):
    """No releases satisfy all requirements at once; the message names those that exclude each other."""


class NotOfferedError(EngineCheckError):
    """The registry has no release that a requirement allows, for this Python on this machine.

    Args:
        requirement: the requirement, such as `sglang==0.5.99`.
        offered: the newest versions that the registry has, oldest first; empty if it has none.
    """

    def __init__(self, requirement: str, offered: tuple[str, ...]) -> None:
        self.requirement = requirement
        self.offered = offered
        has = f"its newest are {', '.join(offered)}" if offered else "it has no version at all, or cannot be reached"
        super().__init__(f"the package registry offers no {requirement} to this Python on this machine: {has}")
