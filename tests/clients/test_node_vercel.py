"""The Vercel AI SDK: `@ai-sdk/openai-compatible`, and `@ai-sdk/openai`, which starts at `/v1/responses`."""

from __future__ import annotations

import pytest

from tests.clients.node_checks import expected, node

CHECKS = ["chat", "stream", "tool_call", "tool_call_streamed", "structured_output", "overflow", "error_text"]


@pytest.mark.parametrize("check", [*CHECKS, *(f"responses_{check}" for check in CHECKS)])
def test_node_vercel(v1: str, check: str) -> None:
    assert expected(check.removeprefix("responses_"), node("vercel.mjs", check, v1))
