"""The loss text of answers with reasoning: what a model of that template writes after its generation prompt."""

from __future__ import annotations

from typing import Any

import pytest

from sun_sglang.train.data.reasoning import block_of
from sun_sglang.train.data.rendering import ChatRenderer
from sun_sglang.train.data.rows.conversation import conversation_of
from sun_sglang.train.recipe import Data
from tests.support.chat_templates import CHATML, OPENED, SWITCHED, THINKING, call, tokenizer_with

USER = {"role": "user", "content": "w"}
LINES = OPENED.replace("<think>' }}", "<think>\\n' }}")
ADDED = "the chat template drops the reasoning of an answer; it is learned, ended by `</think>`"
EMPTY = "the generation prompt opens `<think>`: answers without reasoning begin with `</think>`"
OFF = "the generation prompt ends reasoning by `</think>`: that of answers is not learned"
NO_BLOCK = "{%- for m in messages %}{{ m.role ~ ':' ~ m.content ~ '<|end|>' }}{% endfor %}{{ 'assistant:' }}"
# as DeepSeek-R1's first template: the model opens the block itself, and the history drops it
OWN = OPENED.replace("<|assistant|><think>", "<|assistant|>")


def loss_of(template: str, row: dict[str, Any], **kwargs: Any) -> tuple[str, set[str]]:
    tokenizer = tokenizer_with(template)
    (turn,) = conversation_of(row, Data(file="f"), "row").turns
    example, notes = ChatRenderer(tokenizer, template_kwargs=kwargs).encode(turn, "row")
    return tokenizer.decode(list(example.answer)), set(notes)


@pytest.mark.parametrize(
    ("template", "loss", "notes"),
    [
        (CHATML, "<think>Hm.</think>Sunny.<|end|>", set()),
        (THINKING, "Hm.\n</think>\n\nSunny.<|end|>", set()),
        (OPENED, "Hm.</think>Sunny.<|end|>", {ADDED}),
        (LINES, "Hm.\n</think>\n\nSunny.<|end|>", {ADDED}),
        (OWN, "<think>\nHm.\n</think>\n\nSunny.<|end|>", {ADDED}),
        (SWITCHED, "Sunny.<|end|>", {OFF}),
    ],
    ids=["shown", "opened and shown", "opened", "opened with a line", "own block", "off"],
)
def test_reasoning_of_an_answer_has_a_loss_as_the_model_writes_it(template: str, loss: str, notes: set[str]) -> None:
    answer = {"role": "assistant", "content": "Sunny.", "reasoning_content": "Hm."}
    assert loss_of(template, {"messages": [USER, answer]}) == (loss, notes)


@pytest.mark.parametrize("content", ["<think>\nHm.\n</think>\n\nSunny.", "Hm.\n</think>\n\nSunny."])
@pytest.mark.parametrize("template", [THINKING, LINES])
def test_reasoning_in_the_content_begins_inside_of_an_opened_block(template: str, content: str) -> None:
    expected = "Hm.\n</think>\n\nSunny.<|end|>"
    assert loss_of(template, {"messages": [USER, {"role": "assistant", "content": content}]}) == (expected, set())
    assert loss_of(template, {"prompt": "w", "completion": content}) == (expected, set())


def test_reasoning_in_the_content_is_learned_where_the_history_drops_it() -> None:
    content = "<think>\nHm.\n</think>\n\nSunny."
    row = {"messages": [USER, {"role": "assistant", "content": content}]}
    assert loss_of(OWN, row) == (f"{content}<|end|>", set())
    assert loss_of(SWITCHED, row) == ("Sunny.<|end|>", {OFF})
    assert loss_of(SWITCHED, row, thinking=True)[0] == "\nHm.\n</think>\n\nSunny.<|end|>"


@pytest.mark.parametrize(
    ("template", "loss"),
    [(OPENED, "</think>Sunny.<|end|>"), (LINES, "\n</think>\n\nSunny.<|end|>")],
    ids=["opened", "opened with a line"],
)
def test_an_answer_without_reasoning_closes_an_opened_block(template: str, loss: str) -> None:
    """Served, an answer that does not close it is reasoning, and its content is empty."""
    assert loss_of(template, {"messages": [USER, {"role": "assistant", "content": "Sunny."}]}) == (loss, {EMPTY})
    assert loss_of(template, {"prompt": "w", "completion": "Sunny."}) == (loss, {EMPTY})


def test_a_tool_call_follows_the_reasoning_that_the_template_drops() -> None:
    answer = {"role": "assistant", "content": "", "reasoning_content": "Hm.", "tool_calls": [call("weather", {})]}
    assert loss_of(SWITCHED, {"messages": [USER, answer]}, thinking=True)[0] == "Hm.</think>[weather]<|end|>"


def test_a_template_that_knows_no_reasoning_drops_it_with_a_note() -> None:
    answer = {"role": "assistant", "content": "Sunny.", "reasoning_content": "Hm."}
    loss, notes = loss_of(NO_BLOCK, {"messages": [USER, answer]})
    assert "Sunny." in loss
    assert notes == {"the chat template does not render the whole `reasoning_content` of an answer"}


def test_a_part_of_the_content_that_the_history_drops_is_noted() -> None:
    answer = {"role": "assistant", "content": "<think>Hm.</think>Sunny.</think>Warm."}
    loss, notes = loss_of(OPENED, {"messages": [USER, answer]})
    assert loss == "Hm.</think>Warm.<|end|>"
    assert notes == {"the chat template does not render the whole `content` of an answer"}


def test_a_word_in_an_answer_is_no_block() -> None:
    content = "Write </think> at its end."
    ((loss), notes) = loss_of(CHATML, {"messages": [USER, {"role": "assistant", "content": content}]})
    assert loss == f"<think></think>{content}<|end|>"
    assert not notes


@pytest.mark.parametrize(
    ("end", "state"),
    [
        ("<think>", "opened"),
        ("<think>\n", "opened"),
        ("<seed:think>", "opened"),
        ("◁think▷", "opened"),
        ("<think>\n\n</think>\n\n", "closed"),
        ("</think>", "closed"),
    ],
)
def test_block_of_a_prompt_follows_from_its_end(end: str, state: str) -> None:
    block = block_of(f"<|assistant|>{end}", "")
    assert block is not None
    assert block.state == state
    assert block_of("<|assistant|>", "no block") is None
