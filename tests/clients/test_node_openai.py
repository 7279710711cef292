"""The package `openai` of node."""

from __future__ import annotations

import pytest

from tests.clients import questions as q
from tests.clients.node_checks import expected, node

CHECKS = ["chat", "stream", "tool_call", "tool_call_streamed", "structured_output", "overflow", "error_text"]
RESPONSES = ["responses", "responses_streamed"]


@pytest.mark.parametrize("check", CHECKS)
def test_node_openai(v1: str, check: str) -> None:
    assert expected(check, node("openai.mjs", check, v1))


@pytest.mark.parametrize("check", RESPONSES)
def test_node_openai_answer(v1: str, check: str) -> None:
    assert node("openai.mjs", check, v1) == q.SUM_ANSWER
