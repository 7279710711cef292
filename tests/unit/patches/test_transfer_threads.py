"""A thread of KV transfer goes on after a room that is gone, and ends its scheduler if it ends."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from sun_sglang.patches.transfer.transfer_threads import keep_sending

ENDS = """
import threading, sys, types
from sun_sglang.patches.transfer.transfer_threads import end_with_threads
end_with_threads()
end_with_threads()
module = types.ModuleType(sys.argv[1])
exec("def fail(): raise ValueError('no number')", vars(module))
thread = threading.Thread(target=module.fail)
thread.start()
thread.join()
print("goes on")
"""


def sender(*errors: Exception) -> Any:
    """Return a loop that turns one error into its own each time it runs, as SGLang does, and then ends."""
    left = list(errors)

    def send(_manager: Any, queue: list[str]) -> None:
        queue.append("runs")
        try:
            if left:
                raise left.pop(0)
        except Exception as error:
            raise RuntimeError(f"Transfer thread failed because of {error}") from error

    return send


def test_a_sender_goes_on_after_rooms_that_are_gone() -> None:
    runs: list[str] = []
    keep_sending(sender(KeyError(1), KeyError(2)), SimpleNamespace(request_status={3: 1}), runs)
    assert runs == ["runs"] * 3


@pytest.mark.parametrize("error", [KeyError(3), ValueError("1")], ids=["known room", "other error"])
def test_another_error_ends_the_sender(error: Exception) -> None:
    with pytest.raises(RuntimeError, match="Transfer thread failed"):
        keep_sending(sender(error), SimpleNamespace(request_status={3: 1}), [])


@pytest.mark.parametrize(
    ("module", "ends"), [("sglang.srt.disaggregation.mooncake.conn", True), ("sglang.srt.utils.watchdog", False)]
)
def test_a_process_ends_with_a_thread_of_kv_transfer_alone(module: str, ends: bool) -> None:
    done = subprocess.run([sys.executable, "-c", ENDS, module], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == ((1, "") if ends else (0, "goes on\n"))
    # the traceback is shown once
    assert done.stderr.count("ValueError: no number") == 1
    assert ("this scheduler ends too" in done.stderr) == ends
