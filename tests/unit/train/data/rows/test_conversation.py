"""From rows in the formats that people have to the turns that are learned."""

from __future__ import annotations

import json
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from sun_sglang.errors import RecipeError
from sun_sglang.train.data.rows.conversation import Turn, conversation_of
from sun_sglang.train.data.rows.messages import Message
from sun_sglang.train.recipe import Data
from tests.support.chat_templates import WEATHER, call

RECIPES = Path(__file__).parents[5] / "configs" / "train"
CHAT = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "c"},
    {"role": "assistant", "content": "d"},
]
SERVED_CALL = {
    "id": None,
    "index": None,
    "type": "function",
    "function": {"name": "weather", "arguments": {"city": "x"}},
}
SERVED_TOOL = {
    "type": "function",
    "function": {**WEATHER["function"], "description": None},  # type: ignore[dict-item] # the function is a mapping
    "defer_loading": None,
}


def turns(row: dict[str, Any], **data: Any) -> list[Turn]:
    return conversation_of(row, Data(file="f", **data), "row 1").turns


def user(content: Any) -> Message:
    return {"role": "user", "content": content}


def assistant(content: Any = "", **more: Any) -> Message:
    return {"role": "assistant", "content": content, **more}


def test_chats_are_cut_before_their_answers() -> None:
    assert turns({"m": CHAT}, messages="m") == [Turn(CHAT[:3], CHAT[3])]
    assert turns({"m": CHAT}, messages="m", turns="all") == [Turn(CHAT[:1], CHAT[1]), Turn(CHAT[:3], CHAT[3])]
    assert turns({"m": CHAT[:3], "r": "d"}, messages="m", response="r") == [Turn(CHAT[:3], "d")]


TOOL_CHAT = [
    user("w"),
    assistant(None, tool_calls=[call("weather", '{"city": "x"}', id="1")]),
    {"role": "tool", "content": "sun", "tool_call_id": "1"},
]


@pytest.mark.parametrize(
    "answer",
    [
        {"role": "assistant", "content": "", "tool_calls": [call("weather", '{"city": "x"}')]},
        {"role": "assistant", "content": None, "tool_calls": [call("weather", {"city": "x"})]},
        {"role": "assistant", "tool_calls": [{"name": "weather", "arguments": {"city": "x"}}]},
    ],
    ids=["text", "object, null content", "function alone, no content"],
)
def test_tool_calls_are_the_answer_in_every_form(answer: Message) -> None:
    expected = assistant("", tool_calls=[SERVED_CALL])
    assert turns({"messages": [user("w"), answer], "tools": [WEATHER]}) == [Turn([user("w")], expected, [SERVED_TOOL])]


def test_history_with_null_content_is_a_prompt() -> None:
    (turn,) = turns({"messages": [*TOOL_CHAT, assistant("It is sunny.")]})
    assert turn.messages == [
        user("w"),
        assistant("", tool_calls=[{**SERVED_CALL, "id": "1"}]),
        {"role": "tool", "content": "sun", "tool_call_id": "1"},
    ]


@pytest.mark.parametrize("tools", [[WEATHER], json.dumps([WEATHER]), [WEATHER["function"]]])
def test_tools_come_from_the_row_or_the_recipe(tools: Any) -> None:
    chat = [user("w"), assistant("x")]
    assert turns({"messages": chat, "tools": tools})[0].tools == [SERVED_TOOL]
    assert turns({"messages": chat, "t": tools}, tools="t")[0].tools == [SERVED_TOOL]
    if isinstance(tools, list):
        assert turns({"messages": chat}, tools=tuple(tools))[0].tools == [SERVED_TOOL]
        assert turns({"q": "w", "a": "x", "tools": "prose"}, prompt="q", response="a", tools=tuple(tools))[0].tools
    assert turns({"q": "w", "a": "x", "tools": tools}, prompt="q", response="a")[0].tools is None


def test_sharegpt_is_read_with_its_names() -> None:
    row = {
        "system": "be brief",
        "tools": json.dumps([WEATHER]),
        "conversations": [
            {"from": "human", "value": "w"},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "x"}}'},
            {"from": "observation", "value": "sun"},
            {"from": "gpt", "value": "It is sunny.", "weight": None},
        ],
    }
    first, last = turns(row, turns="all")
    system = {"role": "system", "content": "be brief"}
    assert first == Turn([system, user("w")], assistant("", tool_calls=[SERVED_CALL]), [SERVED_TOOL])
    assert last.messages == [*first.messages, first.answer, {"role": "tool", "content": "sun"}]
    assert last.answer == assistant("It is sunny.")
    assert conversation_of(row, Data(file="f"), "row 1").format == "ShareGPT"


@pytest.mark.parametrize(
    ("row", "prompt", "answer"),
    [
        ({"instruction": "add", "input": "1 2", "output": "3"}, [user("add\n\n1 2")], "3"),
        ({"instruction": "add", "input": None, "output": "3"}, [user("add")], "3"),
        ({"instruction": "add", "input": "", "output": "3"}, [user("add")], "3"),
        ({"instruction": "add", "output": "3", "system": None}, [user("add")], "3"),
        ({"prompt": "The sky is", "completion": " blue."}, [user("The sky is")], " blue."),
        ({"prompt": [user("a")], "completion": [assistant("b")]}, [user("a")], assistant("b")),
        ({"prompt": [user("a")], "completion": "b"}, [user("a")], "b"),
        ({"prompt": "a", "completion": [assistant("b")]}, [user("a")], assistant("b")),
        ({"question": "q", "answer": 42}, [user("q")], "42"),
        ({"query": "q", "response": "r"}, [user("q")], "r"),
        ({"system": "s", "prompt": "a", "response": "b"}, [{"role": "system", "content": "s"}, user("a")], "b"),
        ({"system": "s", "instruction": "a", "output": "b"}, [{"role": "system", "content": "s"}, user("a")], "b"),
        (
            {"system": "s", "prompt": [user("a")], "completion": "b"},
            [{"role": "system", "content": "s"}, user("a")],
            "b",
        ),
        ({"messages": json.dumps(CHAT[:2])}, CHAT[:1], CHAT[1]),
    ],
)
def test_known_formats_need_no_column_names(row: dict[str, Any], prompt: list[Message], answer: Any) -> None:
    assert turns(row) == [Turn(prompt, answer)]


@pytest.mark.parametrize("row", [{"prompt": "w", "completion": "x"}, {"instruction": "w", "output": "x"}])
def test_tools_beside_a_text_are_offered(row: dict[str, Any]) -> None:
    assert turns({**row, "tools": [WEATHER]}) == [Turn([user("w")], "x", [SERVED_TOOL])]


def test_system_column_beside_named_messages_is_read() -> None:
    (turn,) = turns({"chat": CHAT[:2], "system": "s"}, messages="chat")
    assert turn.messages == [{"role": "system", "content": "s"}, *CHAT[:1]]


def test_dates_and_decimals_of_parquet_are_their_text() -> None:
    row = {"on": date(2020, 2, 1), "at": time(12, 30), "when": datetime(2020, 2, 1, 12), "price": Decimal("1.50")}
    data = {"prompt": "{on} {at} {when}", "response": "price"}
    assert turns(row, **data) == [Turn([user("2020-02-01 12:30:00 2020-02-01 12:00:00")], "1.50")]


def test_every_answer_of_a_completion_is_learned() -> None:
    row = {"prompt": [user("w")], "completion": [*TOOL_CHAT[1:], assistant("It is sunny.")], "tools": [WEATHER]}
    first, last = turns(row)
    assert first.answer == assistant("", tool_calls=[{**SERVED_CALL, "id": "1"}])
    assert (len(last.messages), last.answer, last.tools) == (3, assistant("It is sunny."), [SERVED_TOOL])


def test_a_column_has_any_name() -> None:
    row = {"user-prompt": "why", "model answer": "so", "system": "the rules", "a: b": "c"}
    turn = Turn([{"role": "system", "content": "the rules"}, user("why")], "so")
    assert turns(row, prompt="user-prompt", response="model answer", system="system") == [turn]
    assert turns(row, prompt="{user-prompt}", response="{model answer}", system="{system}") == [turn]
    (braces,) = turns(row, prompt='{user-prompt} {a: b} {"x": {"y": 1}}', response="model answer")
    assert braces.messages == [user('why c {"x": {"y": 1}}')], "what is no column's name stays"


def test_texts_hold_columns_as_text_or_json() -> None:
    row = {"q": "why", "a": ["x"], "n": None, "t": {"f": 1}}
    (turn,) = turns(row, prompt="{q}? {q}!{n}", response="{a}", system="tools: {t}")
    assert turn == Turn([{"role": "system", "content": 'tools: {"f": 1}'}, user("why? why!")], '["x"]')
    assert turns({"q": "why", "a": "", "s": None}, prompt="q", response="a", system="s") == [Turn([user("why")], "")]


def test_the_tool_recipe_puts_tools_into_the_prompt_and_learns_the_calls() -> None:
    tools = [{"name": "get_weather", "description": "now", "parameters": {"city": {"type": "str"}}}]
    calls = [{"name": "get_weather", "arguments": {"city": "Århus"}}]
    row = {"id": 0, "query": "Weather in Århus?", "tools": json.dumps(tools), "answers": json.dumps(calls)}
    recipe = yaml.safe_load((RECIPES / "data" / "tool.yaml").read_text())["data"]
    del recipe["hub"]
    # as text, which is how the data set holds them, and as lists
    for each in (row, {**row, "tools": tools, "answers": calls}):
        (turn,) = turns(each, **recipe)
        assert json.loads(turn.messages[0]["content"].split(": ", 1)[1].split("\n")[0]) == tools
        assert turn.messages[1] == user("Weather in Århus?")
        assert json.loads(str(turn.answer)) == calls, "the answer is the calls and nothing else"


def test_weight_zero_has_no_loss() -> None:
    first, last = [user("a"), assistant("b", weight=0)], [user("e"), assistant("f", weight=0)]
    chat = [*first, user("c"), assistant("d", weight=1), *last]
    assert [turn.answer for turn in turns({"messages": chat}, turns="all")] == [assistant("d")]
    assert [turn.answer for turn in turns({"messages": chat[:4]})] == [assistant("d")]
    assert turns({"messages": chat[:2]}) == []


@pytest.mark.parametrize(
    ("chat", "reason"),
    [
        ([user("a"), assistant("b"), user("c"), assistant("d", weight=0)], "the last answer has `weight: 0`"),
        ([user("a"), assistant("b", weight=0), user("c"), assistant("d", weight=0)], "every answer has `weight: 0`"),
    ],
)
def test_last_answer_with_weight_zero_leaves_the_row_out(chat: list[Message], reason: str) -> None:
    found = conversation_of({"messages": chat}, Data(file="f"), "row 1")
    assert found.turns == []
    assert found.left_out.startswith(reason)


@pytest.mark.parametrize(
    ("row", "is_noted"),
    [
        ({"messages": [*CHAT, user("e")]}, True),
        ({"messages": [user("w"), *TOOL_CHAT[1:]]}, True),
        ({"prompt": [user("a")], "completion": [assistant("b"), user("c")]}, True),
        ({"messages": CHAT}, False),
        ({"prompt": [user("a")], "completion": "b"}, False),
        ({"prompt": "a", "completion": "b"}, False),
    ],
)
def test_messages_after_the_last_answer_are_noted(row: dict[str, Any], is_noted: bool) -> None:
    notes = conversation_of(row, Data(file="f"), "row 1").notes
    assert ("messages after the last answer are not read" in notes) == is_noted


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("{{q}} is {q}", "{q} is why"),
        ('{{"a": {{"q": {q}}}}}', '{"a": {"q": why}}'),
        ('{"a": {"b": 1}} {q}', '{"a": {"b": 1}} why'),
        ("{{{q}}}", "{why}"),
    ],
)
def test_doubled_braces_are_braces(text: str, prompt: str) -> None:
    (turn,) = turns({"q": "why", "a": "so"}, prompt=text, response="a")
    assert turn.messages == [user(prompt)]


def test_keys_that_serving_ignores_are_named() -> None:
    chat = [{**user("a"), "name": "Ann"}, assistant("b", recipient="all", refusal=None, tone="dry", weight=1)]
    found = conversation_of({"messages": chat}, Data(file="f"), "row 1")
    assert found.notes == {f"serving ignores the key `{key}` of messages" for key in ("name", "recipient", "tone")}
    assert found.turns == [Turn([user("a")], assistant("b"))]


@pytest.mark.parametrize(
    ("row", "data", "message"),
    [
        ({"q": "x"}, {"prompt": "q", "response": "a"}, "row 1: data.response: no column `a`; columns: q"),
        ({"q": "x", "a": "y"}, {"prompt": "{z}", "response": "a"}, "row 1: data.prompt: no column `z`"),
        ({"q": "x", "a": "y"}, {"prompt": "{the question}", "response": "a"}, "no column `the question`"),
        ({"q": "x", "a": "y"}, {"prompt": "{{q}}", "response": "a"}, "no column `{{q}}`"),
        ({"q": "x", "a": None}, {"prompt": "q", "response": "a"}, "row 1: data.response: `a` is null"),
        ({"q": None, "a": "y"}, {"prompt": "q", "response": "a"}, "row 1: data.prompt: `q` is empty"),
        ({"q": None, "a": "y"}, {"prompt": "{q}", "response": "a"}, "row 1: data.prompt: `{q}` is empty"),
        ({"q": "x", "a": ["y"]}, {"prompt": "q", "response": "a"}, r"`a` is neither text nor .*; write `\{a\}`"),
        ({"q": CHAT, "a": "y"}, {"prompt": "{q}", "response": "a"}, "`q` is a list of messages; name it without"),
        ({"q": CHAT, "a": "y", "s": CHAT}, {"prompt": "q", "response": "a", "system": "s"}, "and a text is needed"),
        ({"q": "x"}, {"messages": "m"}, "row 1: data.messages: no column `m`"),
        ({"m": "x"}, {"messages": "m"}, "`m` is not a list of messages"),
        ({"m": []}, {"messages": "m"}, "`m` is not a list of messages"),
        ({"m": CHAT[:1]}, {"messages": "m"}, "no assistant message"),
        ({"x": 1, "y": 2}, {}, "row 1: data: the columns `x`, `y` are of no known format; name `messages`"),
        ({"instruction": "a", "output": "b", "history": [["c", "d"]]}, {}, "write both as `messages`"),
        (
            {"system": "s", "messages": [{"role": "system", "content": "t"}, *CHAT]},
            {},
            "`system` and the first message are two system messages that differ",
        ),
        ({"messages": [user("a"), {"role": "robot", "content": "b"}]}, {}, r"\[1\]: the role 'robot' is unknown"),
        ({"messages": [user("a"), assistant(None)]}, {}, r"messages\[1\]: the answer has neither `content` nor"),
        ({"messages": [user("a"), {"role": "assistant", "tool_call": []}]}, {}, "ignores its keys `tool_call`"),
        ({"messages": [user(None), assistant("b")]}, {}, r"\[0\].content: is missing"),
        ({"messages": [user("a"), assistant({"x": 1})]}, {}, r"\[1\].content: is neither text nor a list"),
        ({"messages": [user([{"type": "image_url"}]), assistant("b")]}, {}, r"content\[0\]: .*reads text only"),
        ({"messages": [user("a"), assistant(tool_calls="x")]}, {}, r"tool_calls: is not a list"),
        ({"messages": [user("a"), assistant(tool_calls=[{}])]}, {}, r"tool_calls\[0\]: is not"),
        ({"messages": [user("a"), assistant(tool_calls=[call("f", "x")])]}, {}, "arguments: is not a JSON object"),
        ({"messages": [user("a"), assistant(tool_calls=[call("f", [1])])]}, {}, "arguments: is not a JSON object"),
        ({"messages": [user("a"), assistant(function_call={"name": "f"})]}, {}, "write `tool_calls`"),
        ({"messages": [user("a"), assistant("b", weight=0.5)]}, {}, "weight: 0.5 is neither 0 nor 1"),
        ({"messages": CHAT, "tools": "nope"}, {}, "data.tools: `tools`: is neither a list of tools nor its JSON"),
        ({"messages": CHAT, "tools": [{"type": "function"}]}, {}, r"data.tools: `tools`\[0\]: is not"),
        ({"messages": CHAT}, {"tools": "t"}, "data.tools: no column `t`"),
        ({"prompt": b"x", "completion": "y"}, {}, "row 1: data.prompt: column `prompt` is no text"),
        ({"q": "x", "a": b"y"}, {"prompt": "q", "response": "{a}"}, "row 1: data.response: column `a` is no text"),
        ({"prompt": "x", "completion": float("nan")}, {}, "`completion` is null"),
        ({"messages": [user("a"), assistant("b", train=False)]}, {}, r"\[1\].train: is not read; write `weight: 0`"),
        ({"messages": [user("a"), assistant("b", thinking="c")]}, {}, r"\[1\].thinking: .*write `reasoning_content`"),
        ({"conversations": [{"from": "function_call", "value": "f()"}]}, {}, "the function call is not JSON"),
    ],
)
def test_a_row_that_does_not_fit_is_named(row: dict[str, Any], data: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        turns(row, **data)
