from __future__ import annotations

from tests.support.training import base, new_model, one_thread, recipe

__all__ = ["base", "new_model", "one_thread", "recipe"]
