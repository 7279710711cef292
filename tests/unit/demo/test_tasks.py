from __future__ import annotations

import json
from itertools import islice, pairwise
from pathlib import Path
from random import Random

import pytest

from sun_sglang.demo.mixture import CURRICULUM, MIXTURE, stream, task_glimpses
from sun_sglang.demo.pretrain import PretrainRecipe
from sun_sglang.demo.tasks import DEMO_QUESTIONS, TASKS, tool
from sun_sglang.demo.tokenizer import build_tokenizer
from sun_sglang.errors import RecipeError
from sun_sglang.train.data.examples import Example, draw, encode, read_jsonl, split_of, write_jsonl

GENERATORS = (*TASKS.values(), *MIXTURE)


@pytest.mark.parametrize("task", TASKS)
def test_splits_share_no_question(task: str) -> None:
    train = {e.question for e in draw(TASKS[task], "train", 12800 if task == "math" else 9600, 0)}
    validation = {e.question for e in draw(TASKS[task], "validation", 300, 1)}
    test = {e.question for e in draw(TASKS[task], "test", 300, 2)}
    assert not train & validation
    assert not train & test
    assert not validation & test


def test_the_base_sees_a_little_of_each_task_and_none_of_what_is_held_out() -> None:
    glimpses = task_glimpses(PretrainRecipe().glimpses, 0)
    assert {split_of(e.question) for e in glimpses} == {"train"}
    shown = list(islice(stream(MIXTURE, 0, glimpses, PretrainRecipe().glimpse_share), 20000))
    # the mixture's own questions never read like a task's, so that only the glimpses can leak
    held_out = {
        e.question for task in TASKS.values() for split in ("validation", "test") for e in draw(task, split, 300, 0)
    }
    assert not held_out & {e.question for e in shown}
    assert 0 < sum(e in set(glimpses) for e in shown) / len(shown) < 0.01


@pytest.mark.parametrize("generator", GENERATORS, ids=lambda g: g.__name__)
def test_generators_repeat_with_their_seed(generator: object) -> None:
    assert callable(generator)
    first, again, other = ([generator(rng) for _ in range(50)] for rng in (Random(3), Random(3), Random(4)))
    assert first == again
    assert first != other


def test_worked_steps_are_right() -> None:
    for example in draw(TASKS["math"], "train", 500, 9):
        steps, _, answer = example.answer.partition(". answer: ")
        values = []
        for step in steps.split(", "):
            term, _, result = step.partition("=")
            # the operands are digits that the generator wrote
            assert eval(term) % 10 == int(result)
            values.append((term[0], result))
        assert all(result == following[0] for (_, result), following in pairwise(values))
        assert values[-1][1] == answer


def test_calls_hold_only_words_of_the_sentence() -> None:
    for example in draw(tool, "train", 500, 9):
        call = json.loads(example.answer)
        assert call["name"] in {"email", "remind", "weather", "play"}
        assert all(value in example.question for value in call["arguments"].values())


def test_curriculum_copies() -> None:
    rng = Random(0)
    assert {g(rng).answer != "" for g in CURRICULUM for _ in range(100)} == {True}


@pytest.mark.parametrize("task", TASKS)
def test_demo_questions_are_held_out_and_as_the_task_asks(task: str) -> None:
    reachable = {e.question: e.answer for e in draw(TASKS[task], "test", 1300, 0)}
    for example in DEMO_QUESTIONS[task]:
        assert split_of(example.question) == "test"
        if example.question in reachable:
            assert reachable[example.question] == example.answer
    assert any(example.question in reachable for example in DEMO_QUESTIONS[task])


def test_a_generator_that_runs_dry_says_so() -> None:
    with pytest.raises(RecipeError, match="draw fewer"):
        draw(lambda rng: Example(f"{rng.randint(0, 9)}", ""), "train", 11, 0)


def test_files_come_back(tmp_path: Path) -> None:
    examples = [Example('say "é\n"', "é"), Example("b", "c")]
    write_jsonl(tmp_path / "a.jsonl", examples)
    assert read_jsonl(tmp_path / "a.jsonl") == examples


@pytest.mark.parametrize("line", ["{", '{"messages": [], "answer": ""}', '{"answer": "x"}', "[]"])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "q"}], "answer": "a"}\n' + line + "\n")
    with pytest.raises(RecipeError, match=r"a\.jsonl:2"):
        read_jsonl(path)


def test_an_example_is_encoded_as_serving_sees_it() -> None:
    tokenizer = build_tokenizer()
    encoded = encode(tokenizer, Example("hi", "yo"))
    assert tokenizer.decode(encoded.prompt) == "<|user|>hi<|end|><|assistant|>"
    assert tokenizer.decode(encoded.answer) == "yo<|end|>"
    messages = [{"role": "user", "content": "hi"}]
    served = tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=False)
    assert tuple(served) == encoded.prompt
