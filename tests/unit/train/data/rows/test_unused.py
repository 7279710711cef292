"""Columns that a known format does not read."""

from __future__ import annotations

from typing import Any

import pytest

from sun_sglang.errors import RecipeError
from sun_sglang.train.data.rows.conversation import conversation_of
from sun_sglang.train.recipe import Data

PAIRS = [
    {"question": "q", "answer": "a"},
    {"prompt": "q", "completion": "a"},
    {"query": "q", "response": "a"},
    {"instruction": "q", "output": "a"},
]
CHAT = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
SHAREGPT = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}


def unused(row: dict[str, Any], **data: Any) -> tuple[str, ...]:
    return conversation_of(row, Data(file="f", **data), "d.jsonl:3").unused


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize(
    "name", ["context", "Context", "passage", "system_prompt", "system-prompt", "choices", "history"]
)
def test_column_that_belongs_to_the_prompt_is_refused_with_both_fixes(pair: dict[str, Any], name: str) -> None:
    prompt, response = pair
    with pytest.raises(RecipeError) as caught:
        unused({name: "The sky is blue.", **pair})
    assert str(caught.value) == (
        f"d.jsonl:3: data: the column `{name}` would be left out; put it into the prompt with `data.prompt: "
        f'"{{{name}}}\\n\\n{{{prompt}}}"` and `data.response: {response}`, or leave it out with '
        f"`data.prompt: {prompt}` and `data.response: {response}`"
    )


def test_fixes_that_an_error_names_are_accepted() -> None:
    row = {"context": "c", **PAIRS[0]}
    (turn,) = conversation_of(row, Data(file="f", prompt="{context}\n\n{question}", response="answer"), "row").turns
    assert turn.messages[0]["content"] == "c\n\nq"
    assert unused(row, prompt="question", response="answer") == ()
    assert unused({**CHAT, "documents": ["d"]}, messages="messages") == ()


def test_input_beside_a_question_is_refused_and_is_read_beside_an_instruction() -> None:
    with pytest.raises(RecipeError, match="column `input` would be left out"):
        unused({**PAIRS[0], "input": "i"})
    assert unused({**PAIRS[3], "input": "i", "text": "q i a"}) == ("text",)


@pytest.mark.parametrize("chat", [CHAT, SHAREGPT])
@pytest.mark.parametrize("name", ["system_prompt", "images", "functions", "chat_template_kwargs"])
def test_part_of_a_chat_outside_of_its_messages_is_refused(chat: dict[str, Any], name: str) -> None:
    with pytest.raises(
        RecipeError, match=rf"column `{name}` would be left out; put it into the messages .*data\.messages"
    ):
        unused({**chat, name: ["x"]})


@pytest.mark.parametrize("row", [*PAIRS, CHAT, SHAREGPT])
@pytest.mark.parametrize("empty", [None, "", " ", [], {}])
def test_empty_part_of_a_prompt_is_taken_for_absent(row: dict[str, Any], empty: Any) -> None:
    assert unused({**row, "system_prompt": empty, "history": empty, "id": 7}) == ("id",)


def test_columns_beside_the_data_are_listed() -> None:
    assert unused({"id": 1, **CHAT, "source": "web", "question": "q", "score": None}) == (
        "id",
        "source",
        "question",
        "score",
    )
    assert unused({**PAIRS[1], "tools": None, "system": ""}) == ()


def test_messages_beside_a_part_of_the_prompt_are_not_put_into_a_text() -> None:
    with pytest.raises(RecipeError, match=r"write both as `messages`, or leave it out with `data.prompt: prompt`"):
        unused({"prompt": CHAT["messages"][:1], "completion": "a", "context": "c"})
