"""The copy between two processes: right bytes pass, wrong bytes and processes that end do not."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from sun_sglang.bench.gpu_check.errors import CheckError
from sun_sglang.bench.gpu_check.transfer import MemoryCopy

pytestmark = pytest.mark.skipif(importlib.util.find_spec("mooncake") is None, reason="mooncake is not installed")

# found before the real package, which it uses
REAL = """import sys
this = sys.modules["mooncake.engine"]
for name in ("mooncake", "mooncake.engine"):
    sys.modules.pop(name, None)
sys.path.remove({folder!r})
from mooncake.engine import TransferEngine as Real
sys.modules["mooncake.engine"] = this
"""
FORGETS_A_BYTE = """class TransferEngine(Real):
    def transfer_sync_write(self, session, ours, theirs, size):
        return super().transfer_sync_write(session, ours, theirs, size - 1)
"""
ENDS = """import os
class TransferEngine(Real):
    def transfer_sync_write(self, session, ours, theirs, size):
        os._exit(3)
"""
REFUSES = """class TransferEngine(Real):
    def transfer_sync_write(self, session, ours, theirs, size):
        return -7
"""
Install = Callable[[str], None]


@pytest.fixture
def mooncake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put another mooncake before the real one, for this process's children."""

    def install(script: str) -> None:
        package = tmp_path / "mooncake"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "engine.py").write_text(REAL.format(folder=str(tmp_path)) + script)
        monkeypatch.syspath_prepend(tmp_path)

    return install


def test_copy_that_arrives_returns_its_rates() -> None:
    found = MemoryCopy("mooncake", "cpu", 1).run()
    assert (found["library"], found["mebibytes"]) == ("mooncake", 1)
    low, high = found["gb_per_s_range"]
    assert 0 < low <= found["gb_per_s"] <= high


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        (FORGETS_A_BYTE, "mooncake: the bytes that arrived differ"),
        (ENDS, "the sender of the copy ended"),
        (REFUSES, "the sender of the copy failed: AssertionError: mooncake ends the transfer with -7"),
    ],
    ids=["a-byte-missing", "a-process-that-ends", "an-error"],
)
def test_copy_that_goes_wrong_is_an_error_with_the_cause(mooncake: Install, script: str, problem: str) -> None:
    mooncake(script)
    with pytest.raises(CheckError, match=problem):
        MemoryCopy("mooncake", "cpu", 1).run()
