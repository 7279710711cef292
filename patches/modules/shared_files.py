"""What the HTTP process and the schedulers of a worker tell each other about modules, in files that both open.

The HTTP process writes which modules are in host memory (`HostModules`); each request reaches a scheduler after its
module. The first scheduler writes what it does with them (`ScheduledModules`), for the page `/sun/modules`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydantic import BaseModel, ConfigDict

from sun_sglang.contracts.modules_report import Changes

HOST_FILE_VARIABLE: Final = "SUN_MODULES_HOST_FILE"
"""Path of the file of `HostModules`, for every process that the server starts."""

SCHEDULED_FILE_VARIABLE: Final = "SUN_MODULES_SCHEDULED_FILE"
"""Path of the file of `ScheduledModules`."""


class HostModules(BaseModel):
    """The modules in host memory.

    Attributes:
        own: revision of the model with which the worker started.
        root: directory of the copies; each is a directory named by its revision.
        held: revisions of the modules in host memory.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    own: str
    root: str
    held: tuple[str, ...]


class ScheduledModules(BaseModel):
    """The scheduler's part of a `ModulesReport`, whose attributes have the same meaning."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    loaded: str
    queued: Mapping[str, int]
    changed: Mapping[str, Changes]
    change_seconds: float
    tokens_per_second: float
