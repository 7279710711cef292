from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sun_sglang.checkpoint.identity import read_identity
from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.contracts.kv_compatibility import pair_difference
from sun_sglang.contracts.module_file import read_module_file
from sun_sglang.demo.make import HELD_OUT
from sun_sglang.demo.systems import BASE, FIRST_TOKEN, QSUN, QUANTIZED_BASE, TUNINGS, checkpoint_name, origin, pairs
from sun_sglang.demo.tasks import DEMO_QUESTIONS, TASKS
from sun_sglang.demo.tokenizer import CHAT_TEMPLATE, build_tokenizer
from sun_sglang.evaluation.exact_match import evaluate, exact_match
from sun_sglang.train.checkpoint import load_model, load_tokenizer
from sun_sglang.train.data.examples import draw, encode, read_jsonl
from sun_sglang.train.reference import greedy

DEMO = Path(__file__).parents[3] / "configs" / "demo"
CHECKPOINTS = [BASE, QUANTIZED_BASE, *(checkpoint_name(task, tuning) for task in TASKS for tuning in TUNINGS)]
SUBSET = 30


@cache
def model(name: str) -> Any:
    return load_model(DEMO / "models" / name)


@cache
def report() -> Any:
    return json.loads((DEMO / "evaluation.json").read_text())


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_checkpoint_can_share_kv_with_the_base(name: str) -> None:
    left, base = (read_identity(DEMO / "models" / n, {"dtype": "float32"}) for n in (name, BASE))
    assert pair_difference(left, base) is None
    assert (left.weights == base.weights) == (name == BASE)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_checkpoint_has_the_tokenizer_and_ends_where_its_answers_end(name: str) -> None:
    tokenizer, built = load_tokenizer(DEMO / "models" / name), build_tokenizer()
    text = 'é∑😀 {"a": 1}<|end|>'
    assert tokenizer.encode(text) == built.encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert model(name).config.eos_token_id == model(name).generation_config.eos_token_id == tokenizer.eos_token_id


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("tuning", TUNINGS)
def test_records_name_the_weights_that_are_there(task: str, tuning: str) -> None:
    directory, of = DEMO / "models" / checkpoint_name(task, tuning), origin(task, tuning)
    start, other = (weights_revision(DEMO / "models" / name) for name in (of.start, of.other))
    record = read_module_file(directory)
    assert (record.scheme, record.first_token, record.base) == (of.scheme, FIRST_TOKEN[of.scheme], start)
    assert record.decoder == (other if of.scheme == "prefill_only" else weights_revision(directory))
    rates = report()["tuning"][checkpoint_name(task, tuning)]["validation_loss"]
    assert record.learning_rate == float(min(rates, key=rates.__getitem__))


@pytest.mark.parametrize("task", TASKS)
def test_the_files_are_what_the_generators_draw(task: str) -> None:
    assert read_jsonl(DEMO / "data" / f"{task}.test.jsonl") == draw(TASKS[task], "test", HELD_OUT, 0)
    assert read_jsonl(DEMO / "data" / f"{task}.demo.jsonl") == list(DEMO_QUESTIONS[task])


@pytest.mark.parametrize("task", TASKS)
def test_the_evaluation_holds_what_was_promised(task: str) -> None:
    cells = report()["exact_match"][task]
    assert cells.keys() == pairs(task).keys()
    for cell in cells.values():
        assert cell == vars(exact_match(cell["correct"], cell["total"]))
        assert cell["total"] == HELD_OUT
    assert cells["full"]["percent"] >= 95
    assert cells["sun"]["percent"] >= cells["full"]["percent"] - 3
    assert cells["prefillshare"]["percent"] >= cells["full"]["percent"] - 3
    assert cells["qsun"]["percent"] >= cells["sun"]["percent"] - 2
    assert cells["naive"]["high"] < cells["sun"]["low"] - 25


@pytest.mark.parametrize("task", TASKS)
def test_the_evaluation_can_be_measured_again(task: str) -> None:
    cells = report()["exact_match"][task]
    tokenizer = load_tokenizer(DEMO / "models" / BASE)
    examples = [encode(tokenizer, e) for e in read_jsonl(DEMO / "data" / f"{task}.test.jsonl")[:SUBSET]]
    for name, (prefill, decode, first_token) in pairs(task).items():
        again = evaluate(model(prefill), model(decode), examples, tokenizer.eos_token_id, first_token)
        # the whole set's figure must lie in the interval of its part
        assert again.low <= cells[name]["percent"] <= again.high, name


@pytest.mark.parametrize(("tuning", "decoder"), [("prefill_only", BASE), (QSUN, QUANTIZED_BASE)])
@pytest.mark.parametrize("task", TASKS)
def test_the_demo_questions_are_answered_right_on_the_shared_decoder(task: str, tuning: str, decoder: str) -> None:
    tokenizer, prefill = load_tokenizer(DEMO / "models" / task), model(checkpoint_name(task, tuning))
    for example in read_jsonl(DEMO / "data" / f"{task}.demo.jsonl"):
        prompt, ends = encode(tokenizer, example).prompt, {tokenizer.eos_token_id}
        (answer,) = greedy(prefill, model(decoder), [prompt], max_new_tokens=100, end_tokens=ends)
        assert tokenizer.decode(answer.tokens, skip_special_tokens=True) == example.answer
