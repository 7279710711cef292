from __future__ import annotations

from tests.support.quantize import source
from tests.support.training import one_thread

__all__ = ["one_thread", "source"]
