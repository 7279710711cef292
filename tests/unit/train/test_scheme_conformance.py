from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sun_sglang.checkpoint.identity import weights_revision
from sun_sglang.contracts.module_file import ModuleFile, read_module_file
from sun_sglang.contracts.scheme import SCHEMES, Scheme, Side
from sun_sglang.train.checkpoint import load_model
from sun_sglang.train.data.collate import collate
from sun_sglang.train.data.examples import TokenizedExample
from sun_sglang.train.modules import build_modules
from sun_sglang.train.objective.two_module_loss import TwoModule
from sun_sglang.train.recipe import Recipe
from sun_sglang.train.reference import greedy
from sun_sglang.train.sweep import prepare, run_sweep

NewModel = Callable[[int], Any]
LoadRecipe = Callable[..., Recipe]
# a new scheme is one line: its name, and the first tokens that a recipe may combine with it
RECIPES: dict[str, tuple[Side, ...]] = {
    "prefill_only": ("prefill", "decode"),
    "decode_only": ("prefill", "decode"),
    "full": ("prefill",),
}
CASES = [(name, side) for name, sides in RECIPES.items() for side in sides]
PROMPTS = ((5, 9, 2, 40), (7, 1, 3, 8, 30, 11))
each_case = pytest.mark.parametrize(("name", "first_token"), CASES, ids=["-".join(case) for case in CASES])


def new_pair(new_model: NewModel, scheme: Scheme) -> TwoModule:
    prefill = new_model(1)
    return TwoModule(prefill, prefill if scheme.one_module else new_model(2), scheme)


def test_registry_every_scheme_has_a_case() -> None:
    assert RECIPES.keys() == SCHEMES.keys()


@each_case
def test_loss_of_a_greedy_answer_is_the_probability_that_generation_gives_it(
    new_model: NewModel, name: str, first_token: Side
) -> None:
    module = new_pair(new_model, SCHEMES[name].with_first_token(first_token)).eval()
    answers = greedy(module.prefill, module.decode, PROMPTS, max_new_tokens=6, first_token=first_token)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        with torch.no_grad():
            out = module(**collate([TokenizedExample(prompt, answer.tokens)], 0))
        best = out.logits[0].topk(2)
        assert tuple(best.indices[:, 0].tolist()) == answer.tokens
        margins = best.values[:, 0] - best.values[:, 1]
        torch.testing.assert_close(margins, torch.tensor(answer.margins, dtype=margins.dtype), rtol=1e-4, atol=1e-5)
        expected = -out.logits[0].log_softmax(-1).gather(1, torch.tensor(answer.tokens)[:, None]).mean()
        torch.testing.assert_close(out.loss, expected)


@each_case
def test_step_changes_the_trained_sides_and_no_bit_of_the_others(
    new_model: NewModel, name: str, first_token: Side
) -> None:
    scheme = SCHEMES[name].with_first_token(first_token)
    module = new_pair(new_model, scheme).train()
    before = {key: p.clone() for key, p in module.named_parameters(remove_duplicate=False)}
    examples = [TokenizedExample(prompt, (3, 4, 5)) for prompt in PROMPTS]
    # in float64 all of a step is visible; without weight decay only a gradient changes a weight
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=0.1, weight_decay=0)
    module(**collate(examples, 0)).loss.backward()
    optimizer.step()

    for side in ("prefill", "decode"):
        parameters = {k: p for k, p in module.named_parameters(remove_duplicate=False) if k.startswith(f"{side}.")}
        changed = [key for key, p in parameters.items() if not torch.equal(p, before[key])]
        assert bool(changed) == (side in scheme.trains), side
        assert all(p.requires_grad == (side in scheme.trains) for p in parameters.values())


@each_case
def test_frozen_side_computes_as_in_serving_while_the_tuned_side_trains(
    new_model: NewModel, name: str, first_token: Side
) -> None:
    scheme = SCHEMES[name].with_first_token(first_token)
    module = new_pair(new_model, scheme).train()
    assert module.prefill.training == ("prefill" in scheme.trains)
    assert module.decode.training == ("decode" in scheme.trains)
    assert module.tuned is getattr(module, scheme.tuned_side)


@pytest.mark.parametrize("lora", [None, {"rank": 4, "alpha": 8}], ids=["weights", "lora"])
@each_case
def test_sun_json_of_a_run_describes_the_scheme_of_its_recipe(
    recipe: LoadRecipe, base: Path, tmp_path: Path, name: str, first_token: Side, lora: Any
) -> None:
    loaded = recipe(scheme=name, first_token=first_token, learning_rates=[1e-2], epochs=0.2, lora=lora)
    run_sweep(prepare(loaded), "c", lambda _line: None, merge=lora is not None)

    out = tmp_path / "out"
    found = read_module_file(out)
    assert found is not None
    assert found.tuning_scheme == loaded.tuning_scheme == SCHEMES[name].with_first_token(first_token)
    assert ModuleFile.model_validate(json.loads(found.model_dump_json())) == found
    # the decoder is the trained module exactly where the scheme trains the decode side
    assert found.decoder == weights_revision(out if found.tuning_scheme.trains_decoder else base)
    weights, before = load_file(out / "model.safetensors"), load_file(base / "model.safetensors")
    assert any(not torch.equal(weights[key], value) for key, value in before.items()), "something was learnt"


@each_case
def test_modules_of_a_recipe_are_those_that_the_scheme_describes(
    recipe: LoadRecipe, base: Path, name: str, first_token: Side
) -> None:
    loaded = recipe(scheme=name, first_token=first_token)
    module = build_modules(loaded, base, base)
    assert module.scheme == loaded.tuning_scheme
    assert (module.prefill is module.decode) == module.scheme.one_module
    frozen = [p for p in module.parameters() if not p.requires_grad]
    assert bool(frozen) != module.scheme.one_module
    original = dict(load_model(base).named_parameters())
    assert all(torch.equal(p, original[key]) for key, p in module.tuned.named_parameters())
