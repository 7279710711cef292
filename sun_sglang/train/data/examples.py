"""Question and answer pairs: their split, their files, and the token ids that serving would see."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

from sun_sglang.errors import RecipeError

Split = Literal["train", "validation", "test"]
Generator = Callable[[Random], "Example"]


@dataclass(frozen=True)
class Example:
    """One turn: what a user asks, and the answer that is right."""

    question: str
    answer: str


@dataclass(frozen=True)
class TokenizedExample:
    """An example as token ids: the prompt as the chat template renders it, and the answer up to its end-of-turn."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


def split_of(question: str) -> Split:
    """The split that a question belongs to: 80 % train, 10 % validation, 10 % test.

    The question's own hash decides, so that no seed and no generator can bring a test question into training.
    """
    bucket = hashlib.sha256(question.encode()).digest()[0] * 100 // 256
    return "train" if bucket < 80 else "validation" if bucket < 90 else "test"


def draw(generator: Generator, split: Split, count: int, seed: int) -> list[Example]:
    """`count` different questions of one split, the same for the same seed.

    Raises:
        RecipeError: the generator has fewer different questions than that.
    """
    # a str seed hashes alike in every process, which a tuple does not
    rng = Random(f"{split}/{seed}")
    found: dict[str, Example] = {}
    for _ in range(100 * count + 1000):
        if len(found) == count:
            return list(found.values())
        example = generator(rng)
        if split_of(example.question) == split:
            found.setdefault(example.question, example)
    raise RecipeError(f"{split}: only {len(found)} different questions, {count} were asked for; ask for fewer")


def encode(tokenizer: Any, example: Example) -> TokenizedExample:
    """Token ids of the prompt through the chat template, and of the answer with the end-of-turn token."""
    return encode_chat(tokenizer, [{"role": "user", "content": example.question}], example.answer)


def encode_chat(tokenizer: Any, messages: Sequence[Mapping[str, Any]], answer: str) -> TokenizedExample:
    """Return the token ids of a prompt and its answer, as serving computes them.

    Args:
        tokenizer: a tokenizer with a chat template and an end-of-text token.
        messages: the chat messages of the prompt.
        answer: the text of the answer; the end-of-text token is added.
    """
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    tokens = tokenizer.encode(answer, add_special_tokens=False)
    return TokenizedExample(tuple(tokenizer.encode(text, add_special_tokens=False)), (*tokens, tokenizer.eos_token_id))


def write_jsonl(path: Path, examples: Iterable[Example]) -> None:
    """One JSON object a line: `{"messages": [{"role": "user", "content": ...}], "answer": ...}`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for example in examples:
            record = {"messages": [{"role": "user", "content": example.question}], "answer": example.answer}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def read_jsonl(path: Path) -> list[Example]:
    """The examples of a file that `write_jsonl` wrote.

    Raises:
        RecipeError: the file is missing, or a line is not of that form.
    """
    if not path.exists():
        raise RecipeError(f"{path}: not found")
    return list(_parse(path))


def _parse(path: Path) -> Iterator[Example]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
            (message,) = record["messages"]
            yield Example(message["content"], record["answer"])
        except (ValueError, KeyError, TypeError) as e:
            raise RecipeError(f'{path}:{number}: is not {{"messages": [one user message], "answer": ...}} ({e})') from e
