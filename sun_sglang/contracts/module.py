"""A full module that takes turns with others on a prefill worker, as the launcher, the router and the workers name it.

All modules of a worker have the shapes of the model that it started with, and a worker changes its weights in place
between two batches. A revision is the digest of a module's weights, so equal revisions are equal weights. A worker
keeps its modules in host memory, in a copy that it verified, under their revisions.

The revision of a request's module is a part of the request's cache namespace, so the KV of one module is never found by
a request for another one. The worker reads it there (`module_in`), runs no batch of it on other weights, and refuses it
where it does not have the module.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Final, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from sun_sglang.contracts.adapter import AdapterRef
from sun_sglang.contracts.scheme import Side
from sun_sglang.errors import UserError
from sun_sglang.strict import Strict, first_invalid

MODULES_PATH: Final = "/sun/modules"
"""`GET` reports the modules of a prefill worker (`modules_report.py`), `POST` gives it one (`ModuleRequest`), and
`DELETE MODULES_PATH/REVISION` takes one away."""

MODULES_VARIABLE: Final = "SUN_MODULES"
"""Environment variable of a prefill worker whose pool has modules: `ModuleLimits` as JSON."""

NAMESPACE_MARK: Final = "*"
"""Text before the revision of a task's own module in the namespace of a request."""

NOT_HELD: Final = "this worker does not have the module {revision}"
"""Message with which a worker refuses a request for a module that it was not given."""

Revision = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
# no path holds a NUL
_Directory = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]
# before the client's part of a namespace, which begins with `#`
_IN_NAMESPACE = re.compile(r"[^#]*\*([0-9a-f]{16})(?:#|$|!)")


class ModuleRef(Strict):
    """One module, by its content and its place.

    Attributes:
        directory: absolute path of its checkpoint, from which prefill workers copy it. An emulated worker takes any
            name.
        revision: digest of its weights (`checkpoint/weights.py`).
        size: bytes of its weights.
        tuned_for: revision of the decoder for which it was tuned; empty where it was not tuned.
        first_token: the side that makes the first output token in the scheme with which it was tuned.
    """

    directory: _Directory
    revision: Revision
    size: int = Field(ge=0, le=1 << 50)
    tuned_for: Annotated[str, StringConstraints(max_length=256)] = ""
    first_token: Side = "prefill"

    def __hash__(self) -> int:
        # as a key of a mapping it is read for every request
        return hash(self.revision)

    @property
    def name(self) -> str:
        """Its name on a worker: the revision."""
        return self.revision


TaskWeights: TypeAlias = AdapterRef | ModuleRef
"""Weights of a task on a prefill pool that it shares: a LoRA adapter on the pool's model, or a module in its turn."""


class ModuleLimits(BaseModel):
    """How the workers of a pool keep modules and change between them; also the modules' part of a worker's card.

    Attributes:
        host_bytes: most bytes of modules in one worker's host memory. At least one module is kept.
        ttft_slo: seconds from a request's arrival at the worker until its prompt should be computed; a module whose
            oldest request would be later takes its turn first.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    host_bytes: int = Field(ge=0, le=1 << 50)
    ttft_slo: float = Field(default=1.0, gt=0, le=1e6)


class ModuleRequest(Strict):
    """The body of `POST MODULES_PATH`: have this module, and answer once it is verified and in host memory."""

    revision: Revision
    directory: _Directory


def read_module_limits(environ: Mapping[str, str]) -> ModuleLimits | None:
    """Return how a worker keeps modules, from its environment; None for a worker that serves its own model alone.

    Raises:
        UserError: the variable has another form.
    """
    content = environ.get(MODULES_VARIABLE)
    try:
        return ModuleLimits.model_validate_json(content) if content else None
    except ValidationError as e:
        raise UserError(f"{MODULES_VARIABLE}: {first_invalid(e, ModuleLimits).describe('its value')}") from e


def module_namespace(made_by: str, revision: str) -> str:
    """Return the namespace of a task's own module, from that of its pool's model."""
    return f"{made_by}{NAMESPACE_MARK}{revision}"


def module_in(extra_key: object) -> str | None:
    """Return the revision of the module that a request needs, from its `extra_key`; None for the worker's own model."""
    found = _IN_NAMESPACE.match(extra_key) if isinstance(extra_key, str) else None
    return found.group(1) if found else None
