"""`call`: a question and one to three functions to a call, from BFCL v4 (the wheel `bfcl-eval`, Apache 2.0).

Questions, functions and possible answers are those of the categories `simple_python`, `live_simple` and `multiple`, and
of `live_multiple`, which is for training only and keeps one other function beside the right one. The prompt shows a
function as a typed signature with its description; the parameters' descriptions are left out, so that scores are not
those of BFCL's leaderboard; questions in other languages than English are left out. No function that a test prompt
shows is shown in training.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from sun_sglang.bench.smollm2.english.python_call import is_accepted, is_supported, parse_call, render_call
from sun_sglang.bench.smollm2.english.rows import SEED, Row, Splits, sample

SYSTEM = "Answer with one function call in Python."
_TESTED = ("simple_python", "live_simple", "multiple")
_TRAINED = (*_TESTED, "live_multiple")
_TEST, _VALIDATION, _TRAIN = 200, 40, 640
_OF_ONE_FUNCTION = 8  # rows: a few functions have up to 94 questions
_LONGEST = 600  # characters of a prompt


@dataclass(frozen=True)
class _Question:
    row: Row
    category: str
    functions: tuple[str, ...]


def splits(source: Path) -> Splits:
    """Return the rows of the four categories.

    Args:
        source: the unpacked wheel.
    """
    questions = _at_most(
        [q for category in _TRAINED for q in _read(source / "bfcl_eval" / "data", category)], _OF_ONE_FUNCTION
    )
    test: list[_Question] = []
    rest: list[_Question] = []
    for group in sample(groups := _connected(questions), len(groups), "call/groups"):
        ours = [q for q in group if q.category in _TESTED]
        if ours and len(test) + len(ours) <= _TEST:
            test += ours
        else:
            rest += group
    drawn = sample(rest, min(len(rest), _TRAIN + _VALIDATION), "call/train")
    shown = {name for q in test for name in q.functions}
    assert shown.isdisjoint(name for q in drawn for name in q.functions)
    return {
        # only the scorer reads what else is accepted
        "train": [replace(q.row, accepted=None) for q in drawn[_VALIDATION:]],
        "validation": [replace(q.row, accepted=None) for q in drawn[:_VALIDATION]],
        "test": [q.row for q in test],
    }


def _at_most(questions: Sequence[_Question], count: int) -> list[_Question]:
    by_function: dict[str, list[_Question]] = defaultdict(list)
    for question in questions:
        assert question.row.accepted is not None
        by_function[str(question.row.accepted["function"])].append(question)
    return [
        q for name, found in by_function.items() for q in sample(found, min(count, len(found)), f"call/function/{name}")
    ]


def _connected(questions: Sequence[_Question]) -> list[list[_Question]]:
    """Return the questions in groups, so that two questions which show one function are in one group."""
    group_of: dict[str, list[_Question]] = {}
    groups: dict[int, list[_Question]] = {}
    for question in questions:
        merged = [question]
        for old in {id(group_of[name]): group_of[name] for name in question.functions if name in group_of}.values():
            merged += old
            del groups[id(old)]
        groups[id(merged)] = merged
        group_of |= {name: merged for q in merged for name in q.functions}
    return list(groups.values())


def _read(folder: Path, category: str) -> Iterator[_Question]:
    asked = _lines(folder / f"BFCL_v4_{category}.json")
    answers = {a["id"]: a["ground_truth"] for a in _lines(folder / "possible_answer" / f"BFCL_v4_{category}.json")}
    for question in asked:
        messages = question["question"][0]
        ((name, possible),) = answers[question["id"]][0].items()
        if len(messages) != 1 or not messages[0]["content"].isascii() or not is_supported(possible):
            continue
        functions = question["function"]
        if category not in _TESTED:
            functions = _two_of(functions, name, question["id"])
        (right,) = [f for f in functions if f["name"] == name]
        accepted = {
            "function": name,
            "required": right["parameters"].get("required", []),
            "types": {key: value["type"] for key, value in right["parameters"]["properties"].items()},
            "arguments": possible,
        }
        prompt = "\n".join([*map(_signature, functions), "", " ".join(messages[0]["content"].split())])
        answer = render_call(name, possible)
        # a few possible answers contradict their own function, or cannot be written as a call
        if len(prompt) <= _LONGEST and is_accepted(parse_call(answer), accepted):
            yield _Question(Row(SYSTEM, prompt, answer, accepted), category, tuple(f["name"] for f in functions))


def _two_of(functions: Sequence[dict[str, Any]], name: str, where: str) -> list[dict[str, Any]]:
    others = [f for f in functions if f["name"] != name]
    chosen = [next(f for f in functions if f["name"] == name), *sample(others, min(1, len(others)), f"call/{where}")]
    Random(f"call/{where}/order/{SEED}").shuffle(chosen)
    return chosen


def _signature(function: dict[str, Any]) -> str:
    """Return `name(key: type, other: type = default)  # description`."""
    required = function["parameters"].get("required", [])
    parts = []
    for key, value in function["parameters"]["properties"].items():
        kind = value["type"]
        if "enum" in value:
            kind = " | ".join(json.dumps(choice, ensure_ascii=False) for choice in value["enum"])
        default = "" if key in required else f" = {value.get('default')!r}"
        parts.append(f"{key}: {kind}{default}")
    description = function["description"].split(". ")[0].rstrip(".")
    return f"{function['name']}({', '.join(parts)})  # {description}"


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
