from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch

from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.contracts.scheme import SCHEMES
from sun_sglang.demo.pretrain import PretrainRecipe, build_model, pretrain
from sun_sglang.demo.tasks import TASKS
from sun_sglang.demo.tokenizer import build_tokenizer
from sun_sglang.demo.tune import TuneRecipe, search, tune
from sun_sglang.errors import CheckpointError
from sun_sglang.evaluation.exact_match import evaluate, exact_match
from sun_sglang.train.checkpoint import load_model, save_model
from sun_sglang.train.data.collate import bucketed
from sun_sglang.train.data.examples import TokenizedExample, draw, encode
from sun_sglang.train.objective.two_module_loss import TwoModule
from sun_sglang.train.reference import greedy

TOKENIZER = build_tokenizer()


def modules(scheme: str) -> TwoModule:
    prefill, description = build_model(0, TOKENIZER), SCHEMES[scheme]
    return TwoModule(prefill, prefill if description.one_module else build_model(0, TOKENIZER), description)


def encoded(count: int) -> list[TokenizedExample]:
    return [encode(TOKENIZER, e) for e in draw(TASKS["math"], "train", count, 0)]


@pytest.mark.parametrize("scheme", ["prefill_only", "full"])
def test_tuning_lowers_the_loss_of_the_trained_side_alone(scheme: str) -> None:
    module = modules(scheme)
    before = {name: p.clone() for name, p in module.decode.named_parameters()}
    start = tune(module, encoded(1), encoded(32), rate=0.0, batch=1, pad=TOKENIZER.pad_token_id, seed=0)
    end = tune(module, encoded(96), encoded(32), rate=2e-3, batch=8, pad=TOKENIZER.pad_token_id, seed=0)
    assert end < 0.8 * start
    frozen = all(torch.equal(p, before[name]) for name, p in module.decode.named_parameters())
    assert frozen == (scheme == "prefill_only")


def test_a_search_keeps_the_rate_with_the_least_validation_loss() -> None:
    recipe = TuneRecipe(examples=48, batch=8, learning_rates=(0.0, 2e-3, 1e-9))
    lines: list[str] = []
    tuned = search(
        lambda: modules("full"),
        encoded(48),
        encoded(16),
        recipe,
        pad=TOKENIZER.pad_token_id,
        seed=0,
        log=lines.append,
    )
    assert tuned.learning_rate == 2e-3
    assert min(tuned.validation_loss, key=tuned.validation_loss.__getitem__) == 2e-3
    assert not torch.equal(tuned.model.model.norm.weight, build_model(0, TOKENIZER).model.norm.weight)
    assert len(lines) == 3


def test_pretraining_learns() -> None:
    lines: list[str] = []
    pretrain(TOKENIZER, PretrainRecipe(curriculum_steps=10, steps=100, tokens=200, warmup=10), 0, lines.append)
    (line,) = lines
    assert float(line.split(" ")[3]) < 5.0


def test_pretraining_repeats_with_its_seed() -> None:
    recipe = PretrainRecipe(curriculum_steps=4, steps=8, tokens=200, warmup=2)
    first, again, other = (pretrain(TOKENIZER, recipe, seed, lambda _line: None) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_batches_hold_every_example_once_and_keep_to_their_size() -> None:
    rng = Random(0)
    examples = [TokenizedExample((i,) * rng.randint(1, 20), (1,)) for i in range(64)]
    batches, seen = bucketed(iter(examples), 60, 64, 0), list[TokenizedExample]()
    while len(seen) < len(examples):
        batch = next(batches)
        seen += batch
        assert len(batch) * max(len(e.prompt) + 1 for e in batch) <= 60
    assert sorted(e.prompt for e in seen) == sorted(e.prompt for e in examples)


def test_saved_weights_are_the_rounded_ones(tmp_path: Path) -> None:
    model = build_model(0, TOKENIZER)
    revision = save_model(model, TOKENIZER, tmp_path, torch.float16)
    loaded = load_model(tmp_path)
    assert revision == weights_revision(tmp_path)
    for name, p in model.named_parameters():
        assert p.dtype == torch.float32
        assert torch.equal(loaded.get_parameter(name), p.half().float())


def test_load_model_of_a_directory_without_config_names_it(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [(0, 300, 0.0, 1.3), (300, 300, 98.7, 100.0), (285, 300, 91.9, 96.9), (5, 10, 23.7, 76.3)],
)
def test_wilson_interval(correct: int, total: int, low: float, high: float) -> None:
    result = exact_match(correct, total)
    assert (result.low, result.high) == (low, high)


def test_only_a_whole_answer_counts() -> None:
    model = build_model(0, TOKENIZER).eval()
    prompts = [e.prompt for e in encoded(4)]
    answers = [g.tokens for g in greedy(model, model, prompts, max_new_tokens=5)]
    right = [TokenizedExample(p, a) for p, a in zip(prompts, answers, strict=True)]
    spoilt = [TokenizedExample(p, (*a[:-1], (a[-1] + 1) % 256)) for p, a in zip(prompts, answers, strict=True)]
    assert evaluate(model, model, right, -1).correct == 4
    assert evaluate(model, model, spoilt, -1).correct == 0
