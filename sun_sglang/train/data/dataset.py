"""Load the examples of a recipe: turn rows of a file or a Hub dataset into prompts and answers in token ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from sun_sglang.errors import RecipeError
from sun_sglang.strict import listed
from sun_sglang.train.data.examples import TokenizedExample
from sun_sglang.train.data.limits import ModelLimits
from sun_sglang.train.data.rendering import ChatRenderer
from sun_sglang.train.data.report import DataReport, ReportBuilder
from sun_sglang.train.data.rows.conversation import conversation_of
from sun_sglang.train.data.rows.files import Placed, rows_of_file, without_nulls
from sun_sglang.train.recipe import Data

_UNLIMITED = ModelLimits()


class Examples(NamedTuple):
    """Training and validation examples, and what became of the rows."""

    train: list[TokenizedExample]
    validation: list[TokenizedExample]
    report: DataReport


def load_examples(
    data: Data,
    tokenizer: Any,
    seed: int,
    *,
    limits: ModelLimits = _UNLIMITED,
    template_kwargs: Mapping[str, Any] | None = None,
) -> Examples:
    """Read, encode and split the data of a recipe. The turns of one row stay on one side of the split.

    Args:
        data: the recipe's `data`.
        tokenizer: a tokenizer with a chat template.
        seed: seed of the validation split.
        limits: limits of the two modules.
        template_kwargs: variables for the chat template.

    Raises:
        RecipeError: the data is missing, a row does not fit the recipe or the model, or no example remains for training
            or validation.
    """
    reader = _Reader(data, tokenizer, limits, template_kwargs or {})
    rows = rows_of_file(Path(data.file), "data.file") if data.file is not None else rows_of_hub(data)
    found = reader.read(rows if data.limit is None else islice(rows, data.limit))
    if data.validation_file is not None:
        train = found
        validation = reader.read(rows_of_file(Path(data.validation_file), "data.validation_file"))
        reader.compare(_flat(train), _flat(validation))
    else:
        Random(f"validation/{seed}").shuffle(found)
        train, validation = _split(found, max(1, round(sum(map(len, found)) * data.validation)))
    report = reader.report.build()
    examples = Examples(_flat(train), _flat(validation), report)
    if not examples.train or not examples.validation:
        raise RecipeError(
            f"data: {len(examples.train)} examples to train on and {len(examples.validation)} to validate with are "
            "left"
            + "".join(f"; {f.count} are left out: {f.text}" for f in report.left_out)
            + "; give more data, or a larger data.max_length"
        )
    return examples


def read_examples(
    data: Data, tokenizer: Any, *, limits: ModelLimits = _UNLIMITED, key: str = "data.file"
) -> tuple[list[TokenizedExample], DataReport]:
    """Read and encode the rows of a file without a split, and report what became of them.

    Args:
        data: the columns and the file.
        tokenizer: a tokenizer with a chat template.
        limits: limits of the two modules.
        key: name of the file, for error messages.

    Raises:
        RecipeError: the file cannot be read, or a row does not fit the columns or the model.
    """
    assert data.file is not None
    reader = _Reader(data, tokenizer, limits, {})
    found = reader.read(islice(rows_of_file(Path(data.file), key), data.limit))
    return _flat(found), reader.report.build()


class _Reader:
    """Reads rows into examples, and reports on them."""

    def __init__(self, data: Data, tokenizer: Any, limits: ModelLimits, template_kwargs: Mapping[str, Any]) -> None:
        self.report = ReportBuilder()
        self._data, self._tokenizer, self._limits = data, tokenizer, limits
        self._longest = _longest_allowed(data, limits)
        self._renderer = ChatRenderer(tokenizer, limits.end_tokens, template_kwargs)
        self._is_first = True

    def read(self, rows: Iterable[Placed]) -> list[list[TokenizedExample]]:
        """Return the examples of each row that has some."""
        return [examples for where, row in rows if (examples := self._examples(row, where))]

    def _examples(self, row: Mapping[str, Any], where: str) -> list[TokenizedExample]:
        conversation = conversation_of(row, self._data, where)
        self.report.format = self.report.format or conversation.format
        self.report.note(sorted(conversation.notes), where)
        if conversation.unused:
            self.report.note([f"columns that are not read: {listed(conversation.unused)}"], where)
        if not conversation.turns:
            self.report.leave_out(conversation.left_out, where)
        found = []
        for turn in conversation.turns:
            example, notes = self._renderer.encode(turn, where)
            if self._is_first:
                self._look_at_tokenizer(example)
            self._check_ids(example)
            tokens = len(example.prompt) + len(example.answer)
            self.report.measure(tokens, where)
            self.report.note(notes, where)
            if tokens > self._longest:
                self.report.leave_out(f"longer than {self._longest:,} tokens (data.max_length)", where)
            else:
                found.append(example)
                self.report.keep(example)
        return found

    def compare(self, train: list[TokenizedExample], validation: list[TokenizedExample]) -> None:
        """Note the validation examples that are trained on too.

        Raises:
            RecipeError: all are: a validation loss would measure nothing but the training.
        """
        trained = set(train)
        both = [example for example in validation if example in trained]
        if both and len(both) == len(validation):
            raise RecipeError(
                f"data.validation_file: each of its {len(both):,} examples is a training example too; give other "
                "examples, or remove the key, and a share of the rows is held out (data.validation)"
            )
        for example in both:
            self.report.note(["a validation example is a training example too"], example.where)

    def _look_at_tokenizer(self, example: TokenizedExample) -> None:
        """Note how the tokenizer differs from the template and the model."""
        self._is_first = False
        added, end = self._tokenizer.encode(""), self._tokenizer.eos_token_id
        if added and example.prompt[0] != added[0] and added[0] != end:
            token = self._tokenizer.convert_ids_to_tokens(added[0])
            self.report.note(
                [
                    f"the tokenizer starts a text with `{token}`, and the chat template does not: serving sends "
                    "prompts without it, so training does; start the template with {{ bos_token }} for both"
                ],
                "",
            )
        ends = self._limits.end_tokens
        if ends and end not in ends:
            known = listed(self._tokenizer.convert_ids_to_tokens(sorted(ends)))
            self.report.note(
                [
                    f"the tokenizer's end token `{self._tokenizer.eos_token}` is not among the model's ({known}): "
                    "answers end with it, and programs that read the model's configuration alone do not stop there"
                ],
                "",
            )

    def _check_ids(self, example: TokenizedExample) -> None:
        most = self._limits.embeddings
        largest = max(max(example.prompt, default=0), max(example.answer))
        if most is not None and largest >= most:
            token = self._tokenizer.convert_ids_to_tokens(largest)
            raise RecipeError(
                f"{example.where}: the tokenizer makes the id {largest} (`{token}`), and the model has {most} "
                "embeddings; remove the token from the tokenizer, or resize the model's embeddings"
            )


def _longest_allowed(data: Data, limits: ModelLimits) -> int:
    """Return the most tokens of an example; the default of `max_length` shrinks to the model's positions."""
    if limits.positions is None or data.max_length <= limits.positions:
        return data.max_length
    if "max_length" in data.model_fields_set:
        raise RecipeError(
            f"data.max_length: {data.max_length} tokens, and the model has {limits.positions} positions; make it at "
            "most that"
        )
    return limits.positions


def _split(
    rows: list[list[TokenizedExample]], count: int
) -> tuple[list[list[TokenizedExample]], list[list[TokenizedExample]]]:
    """Return the rows to train on, and the first rows, which have at least `count` examples, to validate with."""
    held_out, border = 0, 0
    while held_out < count and border < len(rows):
        held_out += len(rows[border])
        border += 1
    return rows[border:], rows[:border]


def _flat(rows: list[list[TokenizedExample]]) -> list[TokenizedExample]:
    return [example for row in rows for example in row]


def rows_of_hub(data: Data) -> Iterator[Placed]:
    """Yield the rows of a Hub dataset.

    Raises:
        RecipeError: it cannot be loaded.
    """
    from datasets import load_dataset

    try:
        dataset = load_dataset(data.hub, data.config, split=data.split)
        for number, row in enumerate(dataset, 1):
            yield f"{data.hub}, row {number}", {name: without_nulls(value) for name, value in row.items()}
    except Exception as e:  # a dozen types, all about a name, a split, the network or a column
        raise RecipeError(f"data.hub: `{data.hub}` cannot be loaded ({type(e).__name__}: {e})") from e
