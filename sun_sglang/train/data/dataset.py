"""Load the examples of a recipe: turn rows of a JSONL file or a Hub dataset into prompts and answers in token ids."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from sun_sglang.errors import RecipeError
from sun_sglang.train.data.examples import TokenizedExample, encode_chat
from sun_sglang.train.recipe import Data

Row = Mapping[str, Any]
Message = Mapping[str, Any]
_COLUMN = re.compile(r"\{(\w+)\}")


class Turn(NamedTuple):
    """One example as text: the messages of the prompt, and the answer."""

    messages: list[Message]
    answer: str


class Examples(NamedTuple):
    """Training and validation examples, and the number of examples that are longer than `max_length`."""

    train: list[TokenizedExample]
    validation: list[TokenizedExample]
    too_long: int


def load_examples(data: Data, tokenizer: Any, seed: int) -> Examples:
    """Read, encode and split the data of a recipe.

    Args:
        data: the recipe's `data`.
        tokenizer: a tokenizer with a chat template.
        seed: seed of the validation split.

    Raises:
        RecipeError: the data is missing, a row lacks a column, or no example remains for training or validation.
    """
    rows = _rows_of_file(Path(data.file), "data.file") if data.file else _rows_of_hub(data)
    found, too_long = _encode_all(rows, data, tokenizer, data.limit)
    if data.validation_file is not None:
        held_out = _rows_of_file(Path(data.validation_file), "data.validation_file")
        train, (validation, more) = found, _encode_all(held_out, data, tokenizer, None)
        too_long += more
    else:
        Random(f"validation/{seed}").shuffle(found)
        count = max(1, round(len(found) * data.validation))
        train, validation = found[count:], found[:count]
    if not train or not validation:
        raise RecipeError(
            f"data: {len(train)} examples to train on and {len(validation)} to validate with are left, {too_long} are "
            f"longer than max_length ({data.max_length} tokens); give more data or a larger data.max_length"
        )
    return Examples(train, validation, too_long)


def turns_of(row: Row, data: Data, where: str) -> Iterator[Turn]:
    """Yield the examples of one row.

    Args:
        row: the row.
        data: the recipe's `data`.
        where: name of the row, for error messages.

    Raises:
        RecipeError: a column is missing or has another type.
    """
    if data.messages is None:
        assert data.prompt is not None
        assert data.response is not None
        system = [{"role": "system", "content": _text(row, data.system, where, "system")}] if data.system else []
        user = {"role": "user", "content": _text(row, data.prompt, where, "prompt")}
        yield Turn([*system, user], _text(row, data.response, where, "response"))
        return
    messages = _messages(row, data.messages, where)
    if data.response is not None:
        yield Turn(messages, _text(row, data.response, where, "response"))
        return
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant" and i > 0]
    if not answers:
        raise RecipeError(f"{where}: data.messages: the row has no assistant message to learn")
    for i in answers if data.turns == "all" else answers[-1:]:
        yield Turn(messages[:i], messages[i]["content"])


def _encode_all(rows: Iterable[tuple[str, Row]], data: Data, tokenizer: Any, limit: int | None) -> Any:
    found, too_long = list[TokenizedExample](), 0
    for number, (where, row) in enumerate(rows):
        if limit is not None and number >= limit:
            break
        for turn in turns_of(row, data, where):
            encoded = encode_chat(tokenizer, turn.messages, turn.answer)
            if len(encoded.prompt) + len(encoded.answer) > data.max_length:
                too_long += 1
            else:
                found.append(encoded)
    return found, too_long


def _rows_of_file(path: Path, key: str) -> Iterator[tuple[str, Row]]:
    try:
        file = path.open(encoding="utf-8")
    except OSError as e:
        raise RecipeError(f"{key}: {path}: cannot be read ({e.strerror})") from e
    with file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
            except ValueError as e:
                raise RecipeError(f"{path}:{number}: is not JSON ({e})") from e
            if not isinstance(row, dict):
                raise RecipeError(f"{path}:{number}: is not a JSON object")
            yield f"{path}:{number}", row


def _rows_of_hub(data: Data) -> Iterator[tuple[str, Row]]:
    from datasets import load_dataset

    try:
        dataset = load_dataset(data.hub, data.config, split=data.split)
    except Exception as e:  # a dozen types, all about a name, a split or the network
        raise RecipeError(f"data.hub: `{data.hub}` cannot be loaded ({type(e).__name__}: {e})") from e
    for number, row in enumerate(dataset, 1):
        yield f"{data.hub}, row {number}", row


def _text(row: Row, wanted: str, where: str, key: str) -> str:
    """Return a column, or a text with columns in braces."""
    names: Sequence[str] = _COLUMN.findall(wanted)
    if key != "system" and not names:
        names, wanted = [wanted], f"{{{wanted}}}"
    missing = [name for name in names if name not in row]
    if missing:
        raise RecipeError(f"{where}: data.{key}: no column `{missing[0]}`; columns: {', '.join(row)}")
    return _COLUMN.sub(lambda match: _as_text(row[match[1]]), wanted)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _messages(row: Row, column: str, where: str) -> list[Message]:
    messages = row.get(column)
    if messages is None:
        raise RecipeError(f"{where}: data.messages: no column `{column}`; columns: {', '.join(row)}")
    good = isinstance(messages, list) and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in messages
    )
    if not good or not isinstance(messages, list) or not messages:
        raise RecipeError(f"{where}: data.messages: `{column}` is not a list of messages with `role` and `content`")
    return messages
