"""The Vercel AI SDK with `@ai-sdk/openai-compatible`: chat completions."""

from __future__ import annotations

import pytest

from tests.clients.node_checks import CHECKS, compare, node


@pytest.mark.parametrize("check", CHECKS)
def test_node_vercel_chat(v1: str, check: str) -> None:
    compare(check, node("vercel.mjs", f"chat_{check}", v1))
