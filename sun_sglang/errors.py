"""The exceptions of sun-sglang.

    SunError
    ├── UserError(ValueError)         a user's input is wrong; the message names the place and the fix
    │   ├── TopologyError             the topology file
    │   ├── IdentityError             two models that must agree differ
    │   ├── CheckpointError           a model directory cannot be read
    │   ├── RecipeError               a training recipe or its data
    │   ├── QuantizeError             a model that cannot be quantized as asked, or the data to calibrate on
    │   └── RequestError              an HTTP request; has the status of the answer
    ├── LaunchError                   a worker could not be started or did not become ready
    ├── QuantizeFailed                a quantization ended without a checkpoint
    ├── PatchError                    a hook on SGLang did not take effect
    └── WorkerError                   a worker failed while it served a request

The CLI prints a `UserError` without a traceback. Any other exception is a defect or an outage and keeps its cause.
"""

from __future__ import annotations

import os


class SunError(Exception):
    """Base of every exception that this package raises."""


class UserError(SunError, ValueError):
    """A user's input is wrong; the message names the place and the fix."""


class TopologyError(UserError):
    """The topology file is wrong. `where` is the YAML path, such as `pools.math.role`."""

    def __init__(self, where: str, problem: str, fix: str = "") -> None:
        self.where = where
        self.problem = problem
        self.fix = fix
        super().__init__(f"{where}: {problem}" + (f"; {fix}" if fix else ""))


class IdentityError(UserError):
    """A prefill and a decode model that must agree differ; the message names the first difference."""


class CheckpointError(UserError):
    """A model directory cannot be read or lacks a file."""


class RecipeError(UserError):
    """A training recipe, or the data it names, is wrong."""


class QuantizeError(UserError):
    """A model cannot be quantized as asked, or the data to calibrate on is wrong. Nothing was begun."""


class RequestError(UserError):
    """A client's request cannot be served.

    Args:
        status: HTTP status, 400 to 499 (or 503 where no worker can serve it).
        message: the problem, and the request to send instead.
        param: the request field at fault; None where no field is.
        code: a machine-readable code in OpenAI's style, such as `model_not_found`.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        super().__init__(message)


class LaunchError(SunError):
    """A worker could not be started, or did not become ready in time."""


class QuantizeFailed(SunError):  # noqa: N818 - `QuantizeError` is a user's mistake
    """A quantization that had begun ended without a checkpoint; what it had written is removed."""


class PatchError(SunError):
    """A hook on SGLang did not take effect; the message names the hook and its target.

    A worker that ends with it exits with `EXIT_REFUSED`, and is not started again: the next start would end likewise.
    """


EXIT_REFUSED = os.EX_CONFIG
"""Exit status of a worker that must not be started again."""

END_MARK = "sun worker: "
"""Begins the line of a worker's log that states why it ended."""


class WorkerError(SunError):
    """A worker failed while it served a request."""
