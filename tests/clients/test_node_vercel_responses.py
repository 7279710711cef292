"""The Vercel AI SDK with `@ai-sdk/openai`: Responses."""

from __future__ import annotations

import pytest

from tests.clients.node_checks import CHECKS, compare, node


@pytest.mark.parametrize("check", CHECKS)
def test_node_vercel_responses(v1: str, check: str) -> None:
    compare(check, node("vercel.mjs", f"responses_{check}", v1))
