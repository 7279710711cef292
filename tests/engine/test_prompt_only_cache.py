"""The prompt-only cache on SGLang's own pools: the tokens that a later request may reuse, after any events."""

from __future__ import annotations

from typing import Any

import pytest

from sun_sglang.patches.versions import installed_version
from tests.support.sglang_questions import SGLangQuestions

pytestmark = pytest.mark.skipif(installed_version() == "0.5.21", reason="its scheduler calls the cache in another way")
CASES = (
    *(f"full/{page}" for page in (1, 16, 64)),
    *(f"window/{page}" for page in (1, 16, 64)),
    "window-only/1",  # SGLang has no pages for such a model
    "mamba/1",  # nor for states that it keeps only at the end of what a request computed
    *(f"mamba-tracked/{page}" for page in (1, 16, 64)),
)
PROMPT = 150  # tokens, in `found_later`


@pytest.fixture(scope="module")
def outcomes(ask_sglang: SGLangQuestions) -> dict[str, Any]:
    return dict(ask_sglang("tests.engine.cache_machine:outcomes", CASES))


@pytest.mark.invariant("I8")
@pytest.mark.parametrize("case", CASES)
def test_prompt_only_cache_after_any_events_holds_prompts_and_states_at_the_length_of_their_keys(
    case: str, outcomes: dict[str, Any]
) -> None:
    assert not outcomes[case]["failure"], outcomes[case]["failure"]


@pytest.mark.parametrize("case", CASES)
def test_second_turn_finds_the_prompt_of_the_first_and_nothing_of_a_request_that_came_back(
    case: str, outcomes: dict[str, Any]
) -> None:
    kind, page = case.split("/")
    # with `extra_buffer` SGLang has no state at the prompt's length to insert
    kept = 0 if kind == "mamba-tracked" else PROMPT // int(page) * int(page)
    assert outcomes[case]["found"] == [kept, kept, 0]
