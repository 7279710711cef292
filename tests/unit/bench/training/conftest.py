from __future__ import annotations

from tests.support.training import new_model, one_thread

__all__ = ["new_model", "one_thread"]
