"""`GET /sun/modules`: the modules that take turns on a prefill worker, and the changes between them so far.

Written by SGLang workers (`worker/`, with the numbers of `patches/modules/`) and emulated workers (`emulator/api`);
read by the router, which prefers a worker that has a task's module loaded, and reports queues and changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from sun_sglang.contracts.module import Revision

# bounds on what a page from the network can make the router keep
_MOST = 1 << 16
_Count = Annotated[int, Field(ge=0, le=1 << 53)]


class Changes(BaseModel):
    """The changes to one module since the worker started.

    Attributes:
        changes: their number.
        seconds: time that they took; no batch ran meanwhile.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    changes: int = Field(ge=0, le=1 << 53)
    seconds: float = Field(ge=0, le=1e12)


class ModulesReport(BaseModel):
    """The content of `GET MODULES_PATH`.

    Attributes:
        loaded: revision of the module whose weights are loaded.
        own: revision of the model with which the worker started.
        held: revisions of the modules in host memory.
        queued: requests that wait for a batch, by the revision of their module.
        changed: the changes by revision, of modules that the worker does not have any more too.
        host_bytes: bytes of the modules in host memory.
        change_seconds: expected time of a change; 0 where none was measured.
        tokens_per_second: prompt tokens that a batch computes a second; 0 where none was measured.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    loaded: Revision
    own: Revision
    held: tuple[Revision, ...] = Field(default=(), max_length=_MOST)
    queued: Mapping[Revision, _Count] = Field(default_factory=dict, max_length=_MOST)
    changed: Mapping[Revision, Changes] = Field(default_factory=dict, max_length=_MOST)
    host_bytes: int = Field(default=0, ge=0, le=1 << 50)
    change_seconds: float = Field(default=0.0, ge=0, le=1e6)
    tokens_per_second: float = Field(default=0.0, ge=0, le=1e12)
