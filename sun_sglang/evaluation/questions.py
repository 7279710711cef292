"""Read a file of questions with their right answers, by training's own reader."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from sun_sglang.errors import RecipeError
from sun_sglang.strict import listed
from sun_sglang.train.data.dataset import read_examples
from sun_sglang.train.data.examples import TokenizedExample
from sun_sglang.train.data.limits import read_limits
from sun_sglang.train.data.report import DataReport
from sun_sglang.train.data.rows.columns import find_columns
from sun_sglang.train.data.rows.files import Row, rows_of_file
from sun_sglang.train.data.rows.messages import parse_messages
from sun_sglang.train.recipe import Data

# no question is left out for its length: one that the models cannot take is an error
_ANY_LENGTH = 1 << 40


class Questions(NamedTuple):
    """Questions with their right answers, as token ids.

    Attributes:
        examples: the questions.
        end_tokens: the tokens at which an answer ends.
        report: what became of the rows.
    """

    examples: list[TokenizedExample]
    end_tokens: frozenset[int]
    report: DataReport


def read_questions(file: Path, tokenizer: Any, prefill: Path, decode: Path, limit: int | None = None) -> Questions:
    """Return the questions of a file of one of training's formats, or with the columns `messages` and `answer`.

    Args:
        file: the file, of any kind that training reads.
        tokenizer: the tokenizer of both models, with a chat template and an end-of-text token.
        prefill: directory of the model that prefills.
        decode: directory of the model that decodes.
        limit: most rows; None for all.

    Raises:
        RecipeError: the file cannot be read, a row has another form, a question and its answer are longer than the
            models' positions, or there is no question.
    """
    first = next(rows_of_file(file, "questions"), None)
    if first is None:
        raise RecipeError(f"{file}: has no questions")
    limits = read_limits(decode, prefill)
    data = _columns(*first).model_copy(update={"file": str(file), "limit": limit, "max_length": _ANY_LENGTH})
    unbounded = replace(limits, positions=None)
    examples, report = read_examples(data, tokenizer, limits=unbounded, key="questions")
    for example in examples:
        tokens = len(example.prompt) + len(example.answer)
        if limits.positions is not None and tokens > limits.positions:
            raise RecipeError(
                f"{example.where}: the question and its answer have {tokens:,} tokens, and the models have "
                f"{limits.positions:,} positions; remove the question"
            )
        if len(example.prompt) < 2:
            raise RecipeError(f"{example.where}: the prompt has fewer than 2 tokens; remove the question")
    if not examples:
        reasons = "".join(f"; {f.count:,} rows: {f.text}" for f in report.left_out)
        raise RecipeError(f"{file}: has no questions{reasons}")
    ends = {tokenizer.eos_token_id, *(example.answer[-1] for example in examples)}
    return Questions(examples, frozenset(ends), report)


def _columns(where: str, row: Row) -> Data:
    """Return the columns of a file by its first row, as a recipe's `data`."""
    if "messages" in row and "answer" in row:
        last = parse_messages(row["messages"], f"{where}: `messages`")[-1].message
        if last["role"] != "assistant":
            return Data(messages="messages", response="answer")
    try:
        find_columns(Data(), row, where)
    except RecipeError as e:
        raise RecipeError(
            f"{where}: the columns {listed(row)} are of no known format; name them `messages` and `answer`, or "
            "`prompt` and `completion`"
        ) from e
    return Data()
