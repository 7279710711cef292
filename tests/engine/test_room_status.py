"""The message that a decode worker is ready for a KV transfer is not lost while the prefill worker opens it."""

from __future__ import annotations

from tests.support.sglang_questions import SGLangQuestions


def test_a_message_that_interrupts_the_opening_of_a_room_is_kept_by_the_hook_alone(
    ask_sglang: SGLangQuestions,
) -> None:
    """Once it is kept without the hook, the hook can go."""
    assert ask_sglang("tests.engine.answers:interrupted_room") == {"without": "opened", "with": "ready"}
