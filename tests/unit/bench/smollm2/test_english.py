"""The English tasks: recipes and data fit each other, no test question is trained, and scorers follow their rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sun_sglang.bench.smollm2.english import shell
from sun_sglang.bench.smollm2.english.build import DATA, SOURCES, main
from sun_sglang.bench.smollm2.english.export import export
from sun_sglang.bench.smollm2.english.python_call import is_accepted, is_supported, parse_call, render_call
from sun_sglang.bench.smollm2.english.scorers import SCORERS
from sun_sglang.errors import UserError
from sun_sglang.train.recipe import load_recipe

ROOT = Path(__file__).parents[4]
ACCEPTED = {
    "function": "math.area",
    "required": ["base"],
    "types": {"base": "float", "unit": "string", "sides": "array", "options": "dict"},
    "arguments": {
        "base": [10],
        "unit": ["square meters", "m^2", ""],
        "sides": [[1, 2], ""],
        "options": [{"digits": [2], "mode": ["up", ""]}, ""],
    },
}


def rows(task: str, split: str) -> list[dict[str, Any]]:
    lines = (ROOT / DATA / f"{task}.{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("task", SOURCES)
def test_recipe_reads_the_committed_data_and_tunes_a_prefill_adapter(task: str) -> None:
    recipe = load_recipe(ROOT / "configs/english/train" / f"{task}.yaml")
    assert recipe.data.file == str(ROOT / DATA / f"{task}.train.jsonl")
    assert recipe.data.validation_file == str(ROOT / DATA / f"{task}.validation.jsonl")
    assert recipe.scheme == "prefill_only"
    assert recipe.lora is not None


@pytest.mark.parametrize("name", ["full/call", "full/extract", "full/intent"])
def test_ordinary_lora_differs_from_sun_in_the_scheme_alone(name: str) -> None:
    full = load_recipe(ROOT / "configs/english/train" / f"{name}.yaml")
    own = load_recipe(ROOT / "configs/english/train" / f"{Path(name).name}.yaml")
    assert full.scheme == "full"
    assert full.output != own.output
    assert full.model_copy(update={"scheme": own.scheme, "output": own.output}) == own


@pytest.mark.parametrize("rank", [4, 16, 64])
def test_recipe_of_a_rank_keeps_the_scale_of_the_update(rank: int) -> None:
    recipe = load_recipe(ROOT / "configs/english/train/rank" / f"intent-{rank}.yaml")
    own = load_recipe(ROOT / "configs/english/train/intent.yaml")
    assert recipe.lora is not None
    assert own.lora is not None
    assert recipe.lora.rank == rank
    assert recipe.lora.alpha / rank == own.lora.alpha / own.lora.rank
    assert recipe.model_copy(update={"lora": own.lora, "output": own.output}) == own


@pytest.mark.parametrize("task", SOURCES)
def test_no_question_is_in_two_splits(task: str) -> None:
    train, validation, test = (
        {row["messages"][-1]["content"] for row in rows(task, split)} for split in ("train", "validation", "test")
    )
    assert not (train | validation) & test
    assert not train & validation


def test_no_function_of_a_tested_call_is_shown_in_training() -> None:
    shown, tested = (
        {line.split("(")[0] for row in rows("call", split) for line in functions(row)} for split in ("train", "test")
    )
    assert len(tested) > 150
    assert shown.isdisjoint(tested)


def functions(row: dict[str, Any]) -> list[str]:
    signatures: str = row["messages"][-1]["content"].partition("\n\n")[0]
    return signatures.splitlines()


@pytest.mark.parametrize("task", SOURCES)
def test_expected_answers_are_right_and_empty_ones_are_wrong(task: str) -> None:
    for row in rows(task, "test"):
        assert SCORERS[task](row["answer"], row)
        assert not SCORERS[task]("", row)


@pytest.mark.parametrize(
    ("call", "right"),
    [
        ("math.area(base=10)", True),
        ("math.area(base=10.0, unit='Square-Meters')", True),
        ("math.area(base=10, unit='m2')", True),
        ("math.area(base=10, sides=[1, 2], options={'digits': 2})", True),
        ("math.area(base=10, options={'digits': 2, 'mode': 'down'})", False),
        ("math.area(base=10, options={'mode': 'up'})", False),
        ("math.area(base=10, sides=[2, 1])", False),
        ("math.area(base='10')", False),
        ("math.area(base=11)", False),
        ("math.area(unit='m2')", False),
        ("math.area(base=10, height=5)", False),
        ("math.volume(base=10)", False),
        ("math.area(10)", False),
        ("math.area(base=f(10))", False),
        ("math.area(base=10); math.area(base=10)", False),
        ("The area is math.area(base=10)", False),
    ],
)
def test_call_is_right_by_bfcl_rule(call: str, right: bool) -> None:
    assert is_accepted(parse_call(call), ACCEPTED) is right


def test_rendered_call_has_the_first_values_and_no_optional_argument() -> None:
    possible = {"text": ['say "hi"\n', "hi"], "n": [3], "flag": [True, ""], "map": [{"a": ["x"], "b": ["", 1]}]}
    text = render_call("f.g", possible)
    assert text == 'f.g(text="say \\"hi\\"\\n", n=3, map={"a": "x"})'
    call = parse_call(text)
    assert call is not None
    assert call.arguments == {"text": 'say "hi"\n', "n": 3, "map": {"a": "x"}}


def test_possible_values_that_the_rule_cannot_compare_are_not_supported() -> None:
    assert is_supported(ACCEPTED["arguments"])  # type: ignore[arg-type] # a dict of several types
    assert not is_supported({"a": []})
    assert not is_supported({"a": [{"b": [{"c": [1]}]}]})
    assert not is_supported({"a": [{"b": 1}]})


def test_shell_rows_have_one_form_of_each_option(tmp_path: Path) -> None:
    pages = tmp_path / "pages" / "common"
    pages.mkdir(parents=True)
    examples = [
        ("[c]reate an archive and [f]ile `x`", "tar {{[-c|--create]}} {{path/to/x}}"),
        ("Show it", "tar {{[s|show]}}"),
        ("Pick", "tar {{a|b}}"),
        ("Fetch", "tar {{https://registry.anything.org/}}x"),
    ]
    page = "".join(f"- {request}:\n\n`{line}`\n\n" for request, line in examples)
    (pages / "tar.md").write_text(f"# tar\n\n> Archives.\n\n{page}", encoding="utf-8")
    (pages / "unknown.md").write_text(page, encoding="utf-8")
    found = {row.question: row.answer for part in shell.splits(tmp_path).values() for row in part}
    assert found == {
        "tar: create an archive and file x": "tar -c path/to/x",
        "tar: Show it": "tar show",
        "tar: Fetch": "tar https://registry.example.com/x",
    }


def test_missing_source_is_one_error_that_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--sources", str(tmp_path), "--task", "intent", "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "train.csv" in error
    assert "configs/english/README.md" in error


def test_exported_adapter_is_bfloat16_and_names_no_path(tmp_path: Path) -> None:
    trained, out = tmp_path / "trained", tmp_path / "out"
    trained.mkdir()
    weights = {"a.lora_A.weight": torch.full((2, 3), 1.001)}
    save_file(weights, trained / "adapter_model.safetensors")
    settings = {"base_model_name_or_path": str(tmp_path), "target_modules": ["v_proj", "k_proj"], "r": 6}
    (trained / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(UserError, match=r"has no sun\.json"):
        export(trained, out)
    (trained / "sun.json").write_text("{}", encoding="utf-8")
    size = export(trained, out)
    found = load_file(out / "adapter_model.safetensors")
    assert size == (out / "adapter_model.safetensors").stat().st_size
    assert {name: value.dtype for name, value in found.items()} == {"a.lora_A.weight": torch.bfloat16}
    assert torch.equal(found["a.lora_A.weight"], weights["a.lora_A.weight"].bfloat16())
    config = json.loads((out / "adapter_config.json").read_text(encoding="utf-8"))
    assert str(tmp_path) not in json.dumps(config)
    assert config["target_modules"] == ["k_proj", "v_proj"]
