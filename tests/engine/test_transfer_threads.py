"""The threads of KV transfer and the scheduler's thread do not spoil each other's work."""

from __future__ import annotations

from tests.support.sglang_questions import SGLangQuestions


def test_a_message_that_interrupts_the_opening_of_a_room_is_kept_by_the_hook_alone(
    ask_sglang: SGLangQuestions,
) -> None:
    """Once it is kept without the hook, the hook can go."""
    assert ask_sglang("tests.engine.answers:interrupted_room") == {"without": "opened", "with": "ready"}


def test_a_room_that_goes_while_it_is_read_ends_the_sender_without_the_hook_alone(
    ask_sglang: SGLangQuestions,
) -> None:
    """Once the sender survives it without the hook, the hook can go."""
    found = ask_sglang("tests.engine.answers:sender_after_a_room_that_is_gone")
    assert found == {"without": "KeyError(1)", "with": "at its end"}
