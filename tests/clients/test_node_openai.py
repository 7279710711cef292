"""The package `openai` of node."""

from __future__ import annotations

import pytest

from tests.clients.node_checks import CHECKS, answer, compare, node


@pytest.mark.parametrize("check", CHECKS)
def test_node_openai(v1: str, check: str) -> None:
    compare(check, node("openai.mjs", check, v1))


@pytest.mark.parametrize("check", ["responses", "responses_streamed"])
def test_node_openai_answer(v1: str, check: str) -> None:
    assert node("openai.mjs", check, v1) == answer("completed")
