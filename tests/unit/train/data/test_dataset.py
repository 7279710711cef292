from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from sun_sglang.demo.tokenizer import build_tokenizer
from sun_sglang.errors import RecipeError
from sun_sglang.train.data.collate import LengthGrouped
from sun_sglang.train.data.dataset import Turn, load_examples, turns_of
from sun_sglang.train.data.examples import Example, encode
from sun_sglang.train.recipe import Data

TOKENIZER = build_tokenizer()
RECIPES = Path(__file__).parents[4] / "configs" / "train"
CHAT = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "c"},
    {"role": "assistant", "content": "d"},
]


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def turns(row: dict[str, Any], **data: Any) -> list[Turn]:
    return list(turns_of(row, Data(file="f", **data), "row 1"))


def test_chats_are_cut_before_their_answers() -> None:
    assert turns({"m": CHAT}, messages="m") == [Turn(CHAT[:3], "d")]
    assert turns({"m": CHAT}, messages="m", turns="all") == [Turn(CHAT[:1], "b"), Turn(CHAT[:3], "d")]
    assert turns({"m": CHAT[:3], "r": "d"}, messages="m", response="r") == [Turn(CHAT[:3], "d")]


def test_columns_and_texts_with_columns() -> None:
    row = {"q": "why", "a": ["x"], "t": {"f": 1}}
    assert turns(row, prompt="q", response="a", system="tools: {t}") == [
        Turn([{"role": "system", "content": 'tools: {"f": 1}'}, {"role": "user", "content": "why"}], '["x"]')
    ]
    assert turns(row, prompt="{q}? {q}!", response="a", system="be brief")[0].messages == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "why? why!"},
    ]


@pytest.mark.parametrize(
    ("row", "data", "message"),
    [
        ({"q": "x"}, {"prompt": "q", "response": "a"}, "row 1: data.response: no column `a`; columns: q"),
        ({"q": "x", "a": "y"}, {"prompt": "{z}", "response": "a"}, "row 1: data.prompt: no column `z`"),
        ({"q": "x"}, {"messages": "m"}, "row 1: data.messages: no column `m`"),
        ({"m": "x"}, {"messages": "m"}, "`m` is not a list of messages"),
        ({"m": CHAT[:1]}, {"messages": "m"}, "no assistant message"),
    ],
)
def test_a_row_that_does_not_fit_is_named(row: dict[str, Any], data: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        turns(row, **data)


def test_the_tool_recipe_puts_tools_into_the_prompt_and_learns_the_calls(tmp_path: Path) -> None:
    tools = [{"name": "get_weather", "description": "now", "parameters": {"city": {"type": "str"}}}]
    calls = [{"name": "get_weather", "arguments": {"city": "Århus"}}]
    row = {"id": 0, "query": "Weather in Århus?", "tools": json.dumps(tools), "answers": json.dumps(calls)}
    recipe = yaml.safe_load((RECIPES / "data" / "tool.yaml").read_text())["data"]
    assert recipe.pop("hub") == "Salesforce/xlam-function-calling-60k"
    # as text, which is how the data set holds them, and as lists
    for rows in ([row] * 4, [{**row, "tools": tools, "answers": calls}] * 4):
        file = write(tmp_path / "xlam.jsonl", rows)
        train, _, too_long = load_examples(Data(file=file, validation=0.25, **recipe), TOKENIZER, 0)
        assert (len(train), too_long) == (3, 0)
        prompt, answer = (TOKENIZER.decode(part) for part in (train[0].prompt, train[0].answer))
        system, asked = prompt.split("<|user|>")
        assert json.loads(system.split(": ", 1)[1].split("\n")[0]) == tools
        assert asked.startswith("Weather in Århus?")
        assert json.loads(answer.removesuffix("<|end|>")) == calls, "the answer is the calls and nothing else"


def test_examples_are_encoded_split_and_measured(tmp_path: Path) -> None:
    rows = [{"q": f"q{i}", "a": "a" * (200 if i == 3 else 2)} for i in range(41)]
    data = Data(file=write(tmp_path / "d.jsonl", rows), prompt="q", response="a", max_length=60, validation=0.25)
    train, validation, too_long = load_examples(data, TOKENIZER, 0)
    assert (len(train), len(validation), too_long) == (30, 10, 1)
    assert set(train) | set(validation) == {encode(TOKENIZER, Example(f"q{i}", "aa")) for i in range(41) if i != 3}
    assert load_examples(data, TOKENIZER, 0).train == train
    assert load_examples(data, TOKENIZER, 1).train != train
    limited = load_examples(data.model_copy(update={"limit": 4, "validation_file": data.file}), TOKENIZER, 0)
    assert (len(limited.train), len(limited.validation), limited.too_long) == (3, 40, 2)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["nope"], r"d.jsonl:1: is not JSON"),
        (["[1]"], r"d.jsonl:1: is not a JSON object"),
        ([], "0 examples to train on"),
    ],
)
def test_a_file_that_does_not_fit_is_named(tmp_path: Path, rows: list[Any], message: str) -> None:
    data = Data(file=write(tmp_path / "d.jsonl", rows), prompt="q", response="a")
    with pytest.raises(RecipeError, match=message):
        load_examples(data, TOKENIZER, 0)
    with pytest.raises(RecipeError, match=r"data.file: .*cannot be read"):
        load_examples(data.model_copy(update={"file": str(tmp_path / "none")}), TOKENIZER, 0)


def test_grouped_order_has_every_index_once_and_pads_less() -> None:
    rng = Random(0)
    lengths = [rng.randint(1, 100) for _ in range(1003)]
    order = list(LengthGrouped(lengths, 8, seed=1))
    assert sorted(order) == list(range(1003))
    assert order == list(LengthGrouped(lengths, 8, seed=1)) != list(LengthGrouped(lengths, 8, seed=2))

    def padded(indices: list[int]) -> int:
        parts = [indices[i : i + 8] for i in range(0, len(indices), 8)]
        return sum(len(part) * max(lengths[i] for i in part) for part in parts)

    assert padded(order) < 1.1 * sum(lengths) < 0.7 * padded(list(range(1003)))
    halves = [sum(lengths[i] for i in half) / len(half) for half in (order[:400], order[400:800])]
    assert abs(halves[0] - halves[1]) < 15, "length says nothing about when an example comes"


def test_grouping_needs_no_whole_batch() -> None:
    assert list(LengthGrouped([5, 1, 3], 8, seed=0)) == [1, 2, 0]
