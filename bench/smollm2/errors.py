"""The error that ends the making of a model or of its tasks."""

from __future__ import annotations

from sun_sglang.errors import UserError


class ModelError(UserError):
    """A model or a task's module cannot be made; the message names the file and the fix."""
