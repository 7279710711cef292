"""Files of prompts: what each form gives, and the place of every fault."""

from __future__ import annotations

import json
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.bench.load.errors import FileError
from sun_sglang.bench.load.workload.planned import Chat
from sun_sglang.bench.load.workload.prompts.datasets import parse_jsonl, parse_sharegpt

FILE = Path("data.jsonl")


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "Hi"}, "Hi"),
        ({"prompt": [5, 6]}, (5, 6)),
        ({"text": "Hi"}, "Hi"),
        ({"question": "2+2?", "answer": "4"}, "2+2?"),
        ({"prompt": None, "question": "2+2?"}, "2+2?"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, Chat(({"role": "user", "content": "Hi"},))),
        (
            {"messages": [{"role": "user", "content": "Hi", "name": "x"}, {"role": "assistant", "content": "Yo"}]},
            Chat(({"role": "user", "content": "Hi"},)),
        ),
    ],
)
def test_jsonl_row_of_each_form_gives_its_prompt(row: object, prompt: object) -> None:
    assert parse_jsonl(FILE, orjson.dumps(row)).prompts == [prompt]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{", "not valid JSON"),
        (b"[1]", "the line is no JSON object"),
        (b"{}", "none of `messages`, `prompt`, `text` and `question`"),
        (b'{"prompt": " "}', "`prompt` is empty"),
        (b'{"prompt": 5}', "`prompt` is no text"),
        (b'{"prompt": []}', "`prompt` is no text"),
        (b'{"prompt": [1, true]}', "`prompt` is no text"),
        (b'{"prompt": [-1]}', "`prompt` is no text"),
        (b'{"question": ["a"]}', "`question` is no text"),
        (b'{"messages": "x"}', "`messages` is no list"),
        (b'{"messages": []}', "`messages` has no message before the assistant's"),
        (b'{"messages": [1]}', "`messages.0` is no object"),
        (b'{"messages": [{"role": "user", "content": null}]}', "`messages.0.content` is no text"),
        (b'{"messages": [{"role": "assistant", "content": "x"}]}', "no message before the assistant's"),
        (b'{"prompt": "\xff"}', "not valid JSON"),
        (b"[" * 2000, "not valid JSON"),
    ],
)
def test_jsonl_wrong_line_is_named(line: bytes, problem: str) -> None:
    with pytest.raises(FileError) as error:
        parse_jsonl(FILE, b'{"prompt": "a"}\n\n' + line)
    assert str(error.value).startswith("data.jsonl:3: ")
    assert problem in str(error.value)


_KEYS = st.sampled_from(["messages", "prompt", "question", "role", "content", "conversations", "from", "value"])
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["human", "user", "x", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=8,
)


@given(st.binary() | st.lists(_JSON, max_size=3).map(lambda rows: "\n".join(map(json.dumps, rows)).encode()))
def test_datasets_of_any_content_are_parsed_or_rejected_in_place(content: bytes) -> None:
    for parse in (parse_jsonl, parse_sharegpt):
        try:
            count = len(parse(FILE, content).prompts)
        except FileError as error:
            place = str(error)
        else:
            place = f"data.jsonl: {count}"
            assert count > 0
        assert place.startswith("data.jsonl:")


def test_sharegpt_conversation_gives_its_first_message_of_a_human() -> None:
    conversations = [
        {
            "conversations": [
                {"from": "gpt", "value": "."},
                {"from": "human", "value": "a"},
                {"from": "human", "value": "b"},
            ]
        },
        {"conversations": []},
        {"conversation": [{"from": "user", "value": "c"}]},
    ]
    dataset = parse_sharegpt(FILE, orjson.dumps(conversations))
    assert dataset.prompts == ["a", "c"]
    assert dataset.left_out == 1
    assert dataset.origin["left_out"] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[\n{]", "data.jsonl:2: not valid JSON"),
        (b"{}", "data.jsonl:1: a ShareGPT file is a JSON list"),
        (b"[]", "data.jsonl: no conversation has a message of a human"),
        (b'[{"conversations": []}, 5]', "data.jsonl: conversation 2: it has no list `conversations`"),
        (b'[{"conversations": [{"from": "human"}]}]', "data.jsonl: conversation 1: a message has no text `value`"),
    ],
)
def test_sharegpt_wrong_content_is_named(content: bytes, message: str) -> None:
    with pytest.raises(FileError) as error:
        parse_sharegpt(FILE, content)
    assert str(error.value).startswith(message)


def test_jsonl_without_a_prompt_is_an_error() -> None:
    with pytest.raises(FileError, match=r"data.jsonl: the file has no prompt"):
        parse_jsonl(FILE, b"\n \n")
