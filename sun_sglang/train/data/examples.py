"""Questions with answers: their split, their files, and their token ids as in serving."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Literal

from sun_sglang.errors import RecipeError

Split = Literal["train", "validation", "test"]
Generator = Callable[[Random], "Example"]


@dataclass(frozen=True)
class Example:
    """One question of a user, and the right answer."""

    question: str
    answer: str


@dataclass(frozen=True)
class TokenizedExample:
    """An example as token ids.

    Attributes:
        prompt: the prompt as the chat template renders it.
        answer: the answer with its end token; it has the loss.
        where: place of its row, such as `data.jsonl:3`; empty where it is of no file.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    where: str = field(default="", compare=False)


def split_of(question: str) -> Split:
    """Return the split of a question: 80 % train, 10 % validation, 10 % test.

    A hash of the question decides, so that no seed and no generator can put a test question into training.
    """
    bucket = hashlib.sha256(question.encode()).digest()[0] * 100 // 256
    return "train" if bucket < 80 else "validation" if bucket < 90 else "test"


def draw(generator: Generator, split: Split, count: int, seed: int) -> list[Example]:
    """Return different questions of one split; the same questions for the same seed.

    Args:
        generator: makes one example from a random number generator.
        split: the split.
        count: number of questions.
        seed: seed of the draw.

    Raises:
        RecipeError: the generator makes fewer than `count` different questions.
    """
    # a seed of type str gives the same numbers in every process; a tuple does not
    rng = Random(f"{split}/{seed}")
    found: dict[str, Example] = {}
    for _ in range(100 * count + 1000):
        if len(found) == count:
            return list(found.values())
        example = generator(rng)
        if split_of(example.question) == split:
            found.setdefault(example.question, example)
    raise RecipeError(f"{split}: only {len(found)} different questions of {count}; draw fewer")


def encode(tokenizer: Any, example: Example) -> TokenizedExample:
    """Return the token ids of an example: its question as one user message, and its answer.

    Args:
        tokenizer: a tokenizer with a chat template and an end-of-text token.
        example: the question and its answer; the end-of-text token is added.
    """
    messages = [{"role": "user", "content": example.question}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    answer = tokenizer.encode(example.answer, add_special_tokens=False)
    return TokenizedExample(tuple(tokenizer.encode(text, add_special_tokens=False)), (*answer, tokenizer.eos_token_id))


def write_jsonl(path: Path, examples: Iterable[Example]) -> None:
    """Write examples, one JSON object a line: `{"messages": [{"role": "user", "content": ...}], "answer": ...}`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for example in examples:
            record = {"messages": [{"role": "user", "content": example.question}], "answer": example.answer}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def read_jsonl(path: Path) -> list[Example]:
    """Return the examples of a file that `write_jsonl` wrote. Blank lines and a byte order mark are skipped.

    Raises:
        RecipeError: the file cannot be read, or a line has another form.
    """
    try:
        with path.open("rb") as file:
            # a text's own line ends, such as U+2028, end no line of JSON
            lines = [(number, line) for number, line in enumerate(file, 1) if line.strip()]
    except FileNotFoundError as e:
        raise RecipeError(f"{path}: not found") from e
    except OSError as e:
        raise RecipeError(f"{path}: cannot be read ({e.strerror or e})") from e
    return [_parse(line, f"{path}:{number}") for number, line in lines]


def _parse(line: bytes, where: str) -> Example:
    try:
        record = json.loads(line.decode("utf-8-sig"))
        (message,) = record["messages"]
        question, answer = message["content"], record["answer"]
        if not isinstance(question, str) or not isinstance(answer, str):
            raise TypeError(f"content is {_kind(question)} and answer is {_kind(answer)}; both must be text")
        # half of a surrogate pair has no tokens
        (question + answer).encode()
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise RecipeError(f'{where}: is not {{"messages": [one user message], "answer": "..."}} ({e})') from e
    return Example(question, answer)


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__
