from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing

from sun_sglang.demo.tokenizer import build_tokenizer
from sun_sglang.errors import RecipeError
from sun_sglang.train.data.collate import LengthGrouped
from sun_sglang.train.data.dataset import load_examples
from sun_sglang.train.data.examples import Example, encode
from sun_sglang.train.data.limits import ModelLimits, read_limits
from sun_sglang.train.data.preview import preview_of
from sun_sglang.train.recipe import Data

TOKENIZER = build_tokenizer()
RECIPES = Path(__file__).parents[4] / "configs" / "train"


def says(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def test_examples_are_encoded_split_and_measured(tmp_path: Path) -> None:
    rows = [{"q": f"q{i}", "a": "a" * (200 if i == 3 else 2)} for i in range(41)]
    data = Data(file=write(tmp_path / "d.jsonl", rows), prompt="q", response="a", max_length=60, validation=0.25)
    train, validation, report = load_examples(data, TOKENIZER, 0)
    assert (len(train), len(validation), report.left_out_count) == (30, 10, 1)
    assert set(train) | set(validation) == {encode(TOKENIZER, Example(f"q{i}", "aa")) for i in range(41) if i != 3}
    assert [e.where.rpartition("/")[2] for e in report.first] == ["d.jsonl:1", "d.jsonl:2", "d.jsonl:3"]
    assert load_examples(data, TOKENIZER, 0).train == train
    assert load_examples(data, TOKENIZER, 1).train != train
    limited = load_examples(data.model_copy(update={"limit": 4, "validation_file": data.file}), TOKENIZER, 0)
    assert (len(limited.train), len(limited.validation), limited.report.left_out_count) == (3, 40, 2)


@pytest.mark.parametrize(("shared", "refused"), [(6, True), (2, False), (0, False)])
def test_validation_example_that_is_trained_on_is_noted_and_none_else_refused(
    tmp_path: Path, shared: int, refused: bool
) -> None:
    rows = [{"q": f"q{i}", "a": "a"} for i in range(12)]
    held_out = write(tmp_path / "v.jsonl", rows[6 - shared : 12 - shared])
    data = Data(file=write(tmp_path / "d.jsonl", rows[:6]), prompt="q", response="a", validation_file=held_out)
    if refused:
        with pytest.raises(RecipeError, match=r"validation_file: each of its 6 examples is a training example too"):
            load_examples(data, TOKENIZER, 0)
        return
    notes = [note.describe() for note in load_examples(data, TOKENIZER, 0).report.notes]
    noted = f"a validation example is a training example too ({shared}; first: {held_out}:1)"
    assert notes == ([noted] if shared else [])


def test_row_whose_last_answer_has_no_weight_is_left_out_and_messages_after_it_are_noted(tmp_path: Path) -> None:
    chat = [says("user", "a"), says("assistant", "b"), says("user", "c")]
    rows = [{"messages": [*chat, {**says("assistant", "d"), "weight": 0}]}, *({"messages": chat} for _ in range(3))]
    report = load_examples(Data(file=write(tmp_path / "d.jsonl", rows)), TOKENIZER, 0).report
    place = tmp_path / "d.jsonl"
    assert report.lines(3) == [
        "left out: 1 of 4 examples: the last answer has `weight: 0`; `data.turns: all` learns the earlier ones; "
        f"first: {place}:1",
        f"note: messages after the last answer are not read (3; first: {place}:2)",
    ]


def test_empty_cell_of_csv_is_an_empty_answer_and_counted(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("prompt,completion\na,\nb,2\nc,\n")
    report = load_examples(Data(file=str(tmp_path / "d.csv")), TOKENIZER, 0).report
    assert report.lines(3) == [f"note: the answer is empty: only its end has a loss (2; first: {tmp_path / 'd.csv'}:2)"]


def test_columns_that_are_not_read_are_reported(tmp_path: Path) -> None:
    rows = [{"id": i, "question": f"q{i}", "answer": "a", "source": "web"} for i in range(9)]
    report = load_examples(Data(file=write(tmp_path / "d.jsonl", rows)), TOKENIZER, 0).report
    assert [f"note: {note.describe()}" for note in report.notes] == report.lines(9)
    assert report.lines(9) == [f"note: columns that are not read: `id`, `source` (9; first: {tmp_path}/d.jsonl:1)"]


def test_the_turns_of_a_conversation_stay_on_one_side_of_the_split(tmp_path: Path) -> None:
    rows = [
        {"messages": [m for t in range(1 + i % 4) for m in (says("user", f"{i}.{t}"), says("assistant", "x"))]}
        for i in range(40)
    ]
    data = Data(file=write(tmp_path / "d.jsonl", rows), turns="all", validation=0.2)
    train, validation, _ = load_examples(data, TOKENIZER, 0)
    assert len(train) + len(validation) == 100
    assert 20 <= len(validation) <= 23, "the share counts examples, and a conversation is not cut"
    assert not {e.where for e in train} & {e.where for e in validation}


def test_what_is_left_out_and_why_is_reported(tmp_path: Path) -> None:
    rows = [
        *({"messages": [says("user", f"{i}"), {**says("assistant", "x"), "mood": "good"}]} for i in range(6)),
        {"messages": [says("user", "a"), {**says("assistant", "b"), "weight": 0}]},
        {"messages": [says("user", "a"), says("assistant", "b" * 300)]},
        {"messages": [says("user", "a"), says("assistant", "")]},
    ]
    report = load_examples(Data(file=write(tmp_path / "d.jsonl", rows), max_length=100), TOKENIZER, 0).report
    place = str(tmp_path / "d.jsonl")
    assert report.lines(7) == [
        f"left out: 1 of 9 examples: every answer has `weight: 0`; first: {place}:7",
        f"left out: 1 of 9 examples: longer than 100 tokens (data.max_length); first: {place}:8",
        f"note: serving ignores the key `mood` of messages (6; first: {place}:1)",
        f"note: the answer is empty: only its end has a loss (1; first: {place}:9)",
    ]
    assert (report.longest, report.longest_at) == (305, f"{place}:8")
    assert report.format == "chat messages"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["nope"], r"d.jsonl:1: is not JSON"),
        (["[1]"], r"d.jsonl, item 1: is not a JSON object"),
        ([], "0 examples to train on"),
        ([{"q": "x", "a": "y" * 2000}], "0 examples to train on .*; 1 are left out: longer than 1,024 tokens"),
        ([{"q": "x", "a": "y"}, {"q": "\ud83d", "a": "y"}], r"d.jsonl:2: .* half of a surrogate pair"),
    ],
)
def test_a_file_that_does_not_fit_is_named(tmp_path: Path, rows: list[Any], message: str) -> None:
    data = Data(file=write(tmp_path / "d.jsonl", rows), prompt="q", response="a")
    with pytest.raises(RecipeError, match=message):
        load_examples(data, TOKENIZER, 0)
    with pytest.raises(RecipeError, match=r"data.file: .*cannot be read"):
        load_examples(data.model_copy(update={"file": str(tmp_path / "none")}), TOKENIZER, 0)


def test_an_id_beyond_the_embedding_is_named(tmp_path: Path) -> None:
    rows = [{"q": "x", "a": "y"}, {"q": "<|reserved_9|>", "a": "y"}]
    data = Data(file=write(tmp_path / "d.jsonl", rows), prompt="q", response="a")
    beyond = TOKENIZER.convert_tokens_to_ids("<|reserved_9|>")
    assert load_examples(data, TOKENIZER, 0, limits=ModelLimits(embeddings=beyond + 1)).train
    message = rf"d.jsonl:2: the tokenizer makes the id {beyond} \(`<\|reserved_9\|>`\), and the model has {beyond} emb"
    with pytest.raises(RecipeError, match=message):
        load_examples(data, TOKENIZER, 0, limits=ModelLimits(embeddings=beyond))


def test_max_length_stays_within_the_models_positions(tmp_path: Path) -> None:
    rows = [{"q": "x", "a": "y" * length} for length in (1, 2, 200)]
    data = Data(file=write(tmp_path / "d.jsonl", rows))
    limits = ModelLimits(positions=100)
    data = data.model_copy(update={"prompt": "q", "response": "a"})
    assert load_examples(data, TOKENIZER, 0, limits=limits).report.left_out_count == 1
    long = Data(file=data.file, prompt="q", response="a", max_length=4096)
    with pytest.raises(RecipeError, match=r"data.max_length: 4096 tokens, and the model has 100 positions; make it at"):
        load_examples(long, TOKENIZER, 0, limits=limits)


def test_an_end_token_that_is_not_the_models_is_noted(tmp_path: Path) -> None:
    data = Data(file=write(tmp_path / "d.jsonl", [{"q": "x", "a": "y"}] * 2), prompt="q", response="a")
    end, other = TOKENIZER.eos_token_id, TOKENIZER.convert_tokens_to_ids("<|reserved_9|>")
    assert not load_examples(data, TOKENIZER, 0, limits=ModelLimits(end_tokens=frozenset({end, other}))).report.notes
    (note,) = load_examples(data, TOKENIZER, 0, limits=ModelLimits(end_tokens=frozenset({other}))).report.notes
    assert note.describe().startswith("the tokenizer's end token `<|end|>` is not among the model's (`<|reserved_9|>`)")


def test_a_start_token_that_the_template_lacks_is_not_trained_and_noted(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.bos_token = "<|reserved_1|>"
    start = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|reserved_1|> $A", special_tokens=[("<|reserved_1|>", start)]
    )
    assert tokenizer.encode("a")[0] == start
    data = Data(file=write(tmp_path / "d.jsonl", [{"q": "x", "a": "y"}] * 2), prompt="q", response="a")
    found = load_examples(data, tokenizer, 0)
    assert start not in found.train[0].prompt, "serving adds none to a rendered template"
    assert "start the template with {{ bos_token }}" in found.report.notes[0].describe()
    tokenizer.chat_template = (RECIPES / "plain.jinja").read_text()
    found = load_examples(data, tokenizer, 0)
    assert found.train[0].prompt.count(start) == 1 == found.train[0].prompt.index(start) + 1
    assert not found.report.notes


def test_limits_are_those_of_both_modules(tmp_path: Path) -> None:
    def model(name: str, config: dict[str, Any], generation: dict[str, Any] | None = None) -> Path:
        directory = tmp_path / name
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps(config))
        if generation is not None:
            (directory / "generation_config.json").write_text(json.dumps(generation))
        return directory

    base = model("base", {"max_position_embeddings": 100, "vocab_size": 9, "eos_token_id": 1}, {"eos_token_id": [1, 2]})
    scaled = {"max_position_embeddings": 50, "vocab_size": 7, "rope_scaling": {"factor": 4.0}, "eos_token_id": 3}
    decoder = model("decoder", {"text_config": scaled})
    assert read_limits(base, decoder) == ModelLimits(100, 7, frozenset({1, 2}))
    assert read_limits(decoder, decoder) == ModelLimits(200, 7, frozenset({3}))
    empty = model("empty", {})
    assert read_limits(empty, empty) == ModelLimits()


def test_the_preview_is_the_text_that_is_trained(tmp_path: Path) -> None:
    rows = [{"q": f"q{i}", "a": "yes"} for i in range(5)]
    data = Data(file=write(tmp_path / "d.jsonl", rows), prompt="q", response="a")
    preview = preview_of(load_examples(data, TOKENIZER, 0), TOKENIZER)
    found = preview.as_json()
    assert found["first_examples"][0] == {
        "at": f"{data.file}:1",
        "prompt": "<|user|>q0<|end|><|assistant|>",
        "loss": "yes<|end|>",
        "prompt_tokens": 5,
        "loss_tokens": 4,
    }
    assert (found["loss_share"], found["longest"]["tokens"], len(found["first_examples"])) == (round(4 / 9, 4), 9, 3)
    json.dumps(found)


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
