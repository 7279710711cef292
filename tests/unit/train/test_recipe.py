from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sun_sglang.errors import RecipeError
from sun_sglang.train.recipe import load_recipe

RECIPES = Path(__file__).parents[3] / "configs" / "train"
PARTS = (RECIPES, RECIPES / "data", RECIPES / "launch")
FILES = sorted(p for p in RECIPES.rglob("*.yaml") if p.parent not in PARTS and p.stem != "common")
PAPERS = [p for p in FILES if p.parent.name != "demo"]
GOOD: dict[str, Any] = {
    "base": "org/model",
    "output": "out",
    "data": {"file": "a.jsonl", "prompt": "q", "response": "a"},
}


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("file", FILES, ids=[str(p.relative_to(RECIPES)) for p in FILES])
def test_every_recipe_loads(file: Path) -> None:
    recipe = load_recipe(file)
    recipe.accumulation(1)
    assert recipe.chat_template is None or Path(recipe.chat_template).exists()


def test_there_is_a_recipe_for_every_model_and_task_of_the_papers() -> None:
    found = {(p.parent.name, p.stem) for p in PAPERS}
    assert found >= {
        (model, task)
        for model in ("llama-3.1-8b", "qwen3-1.7b", "qwen3-8b", "qwen3-14b")
        for task in ("math", "code", "tool")
    }


@pytest.mark.parametrize("file", [p for p in PAPERS if "prefillshare" not in p.stem], ids=lambda p: p.parent.name)
def test_the_papers_recipes_say_what_the_paper_says(file: Path) -> None:
    recipe = load_recipe(file)
    assert (recipe.scheme, recipe.first_token) == ("prefill_only", "prefill")
    assert recipe.learning_rates == (2e-6, 5e-6, 1e-5, 2e-5, 5e-5)
    assert (recipe.global_batch, recipe.warmup, recipe.epochs) == (128, 0.1, 1)
    assert recipe.data.hub is not None
    assert recipe.accumulation(8) == 16


def test_prefillshare_says_what_its_paper_says() -> None:
    recipe = load_recipe(RECIPES / "llama-3.1-8b" / "math-prefillshare.yaml")
    assert (recipe.scheme, recipe.first_token) == ("decode_only", "decode")
    assert (recipe.warmup, recipe.weight_decay, recipe.clip, recipe.data.max_length) == (0.03, 0.1, 0, 1024)
    assert sorted(recipe.learning_rates) == [2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4]
    assert Path(recipe.output).name == "math-prefillshare"


def test_paths_of_a_recipe_with_a_variable_or_a_tilde_are_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SUN_PLACE", str(tmp_path / "place"))
    write(tmp_path / "parent.yaml", {**GOOD, "data": {**GOOD["data"], "file": "$SUN_PLACE/a.jsonl"}})
    settings = {"extends": "${HOME}/parent.yaml", "base": "${SUN_PLACE}/base", "output": "~/out"}
    (tmp_path / "below").mkdir()
    recipe = load_recipe(write(tmp_path / "below" / "recipe.yaml", settings))
    place = tmp_path / "place"
    assert (recipe.base, recipe.output) == (str(place / "base"), str(tmp_path / "out"))
    assert recipe.data.file == str(place / "a.jsonl")


@pytest.mark.parametrize(
    ("change", "place"),
    [({"extends": "${SUN_NOT_SET}/a.yaml"}, "extends: "), ({"data": {"file": "$SUN_NOT_SET/a"}}, "data.file: ")],
)
def test_path_of_a_recipe_with_a_variable_that_is_not_set_is_refused(
    tmp_path: Path, change: dict[str, Any], place: str
) -> None:
    with pytest.raises(RecipeError, match=f"{place}.*the variable `SUN_NOT_SET` is not set"):
        load_recipe(write(tmp_path / "recipe.yaml", {**GOOD, **change}))


def test_yaml_merge_of_a_recipe_gives_the_keys_that_it_does_not_have_itself(tmp_path: Path) -> None:
    text = (
        "{base: org/model, output: out, data: {<<: {prompt: other, limit: 3}, file: a.jsonl, prompt: q, response: a}}"
    )
    data = load_recipe(write(tmp_path / "recipe.yaml", text)).data
    assert (data.prompt, data.limit) == ("q", 3)


def test_a_recipe_adds_to_what_it_extends(tmp_path: Path) -> None:
    (tmp_path / "under").mkdir()
    write(tmp_path / "under" / "a.yaml", {**GOOD, "seed": 1, "warmup": 0.2})
    write(tmp_path / "b.yaml", {"seed": 2})
    file = write(tmp_path / "c.yaml", {"extends": ["under/a.yaml", "b.yaml"], "data": {"limit": 7}})
    recipe = load_recipe(file)
    assert (recipe.seed, recipe.warmup, recipe.data.limit, recipe.data.prompt) == (2, 0.2, 7, "q")
    assert recipe.data.file == str(tmp_path / "under" / "a.jsonl"), "a path is relative to the file it stands in"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bsae": "x"}, r"bsae: unknown key; known keys: `extends`, `base`"),
        ({"data": {"colour": 1}}, r"data.colour: unknown key; known keys: `file`"),
        (
            {"data": {"file": "https://a.b/c.jsonl"}},
            r"data.file: https://a.b/c.jsonl is a URL; give a path .*`data.hub`",
        ),
        ({"base": "https://a.b/org/model"}, r"base: https://a.b/org/model is a URL; give a directory or a Hub id"),
        ({"output": "s3://a/b"}, r"output: s3://a/b is a URL; give a path of this machine"),
        ({"base": None}, r"base: Input should be a valid string \(got None\)"),
        ({"scheme": "half"}, r"scheme: Input should be 'prefill_only'"),
        ({"learning_rates": []}, r"learning_rates: .*at least 1"),
        ({"learning_rates": [1e-3, 1e-3]}, "learning_rates: a rate is given twice"),
        ({"learning_rates": [-1.0]}, r"learning_rates.0: .*greater than 0"),
        ({"data": {"hub": "x/y"}}, "data: needs either `file`"),
        ({"data": {"file": None}}, "data: needs either `file`"),
        ({"data": {"messages": "m"}}, "data: needs either `messages` or `prompt`"),
        ({"data": {"response": None}}, "data.response: is required beside `prompt`"),
        ({"data": {"turns": "all"}}, "data.turns: `all` is only for chat messages"),
        ({"data": {"prompt": None}}, "data.response: is only beside `messages` or `prompt`"),
        ({"data": {"tools": 3}}, "data.tools"),
        ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs.tokenize: is set by training itself"),
        ({"chat_template_kwargs": {"self": 1}}, "chat_template_kwargs.self: is set by training itself"),
        ({"data": {"prompt": None, "messages": "m", "system": "s"}}, "data.system: is only for `prompt`"),
        ({"scheme": "full", "first_token": "decode"}, "first_token: under `full`"),
        ({"scheme": "full", "decoder": "x/y"}, "decoder: `full` trains the decoder"),
        ({"lora": {"rang": 1}}, "lora.rang: unknown key; known keys: `rank`"),
        ({"packing_tokens": 2048, "group_by_length": True}, "group_by_length: packed rows have no padding"),
        ({"packing_tokens": 512}, r"packing_tokens: a row of 512 tokens .* data.max_length \(1024\)"),
        ({"extends": 3}, "extends: is not a file or a list of files"),
        ({"extends": "nowhere.yaml"}, "nowhere.yaml: cannot be read"),
        ({"extends": "recipe.yaml"}, "extends: the recipes extend each other in a circle"),
    ],
)
def test_a_wrong_recipe_is_named_with_its_path(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    content = {**GOOD, **change}
    if isinstance(change.get("data"), dict):
        content["data"] = {**GOOD["data"], **change["data"]}
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(tmp_path / "recipe.yaml", content))


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: 1\na: 2", ":2: not valid YAML: key `a` is given twice"), ("- a", "has no keys"), ("a: [", "not valid YAML")],
)
def test_what_is_not_a_recipe_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(tmp_path / "recipe.yaml", text))
    with pytest.raises(RecipeError, match="output: is required"):
        load_recipe(write(tmp_path / "recipe.yaml", {k: v for k, v in GOOD.items() if k != "output"}))


def test_a_batch_that_cannot_be_divided_is_named(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path / "recipe.yaml", {**GOOD, "micro_batch": 4}))
    assert recipe.accumulation(8) == 4
    with pytest.raises(
        RecipeError, match=r"global_batch: 128 is not a multiple of micro_batch \(4\) times 3 processes"
    ):
        recipe.accumulation(3)
    packed = load_recipe(write(tmp_path / "recipe.yaml", {**GOOD, "micro_batch": 4, "packing_tokens": 1024}))
    with pytest.raises(
        RecipeError, match="global_batch: 128 is not a multiple of 3 processes; make it a multiple of 3"
    ):
        packed.accumulation(3)
