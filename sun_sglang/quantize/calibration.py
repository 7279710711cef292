"""Draw the samples that calibrate and measure a quantization: rows of a file or a Hub dataset as token ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from sun_sglang.checkpoint.json_file import read_json
from sun_sglang.errors import QuantizeError, RecipeError
from sun_sglang.files.local_path import STARTS
from sun_sglang.quantize.job import Tokens

if TYPE_CHECKING:
    from sun_sglang.train.recipe import Data

_TEXT = "text"
"""Column of a text that is no chat; it is used as it is."""


class Source(NamedTuple):
    """Where rows come from.

    Attributes:
        name: a local file or a Hub dataset.
        config: the Hub dataset's configuration.
        split: the Hub dataset's split.
        prompt: column of the user's turn or of the messages before the answer, or a text with columns in braces; None
            to find the columns by the row's format (`train/recipe.py`, `Data`).
        response: column of the answer, or such a text.
    """

    name: str
    config: str | None = None
    split: str = "train"
    prompt: str | None = None
    response: str | None = None


class Samples(NamedTuple):
    """Samples as token ids.

    Attributes:
        calibration: to calibrate on.
        held_out: to measure with.
        rows: number of rows of the source.
    """

    calibration: tuple[Tokens, ...]
    held_out: tuple[Tokens, ...]
    rows: int


def draw_samples(
    source: Source, model: Path, *, calibration: int, held_out: int, max_tokens: int, seed: int
) -> Samples:
    """Return samples of a source: every row has the same chance, and a row is used once.

    A source with fewer rows gives all of them, a tenth of which is held out.

    Args:
        source: the rows.
        model: directory of the model; its tokenizer and chat template are used.
        calibration: samples to calibrate on.
        held_out: samples to measure with.
        max_tokens: the tokens of a sample that are used, from its first.
        seed: seed of the draw.

    Raises:
        QuantizeError: the source cannot be read, has fewer than two rows, a row is neither a chat nor a text, or the
            tokenizer has no chat template.
    """
    from sun_sglang.train.recipe import Data

    rng = Random(f"calibration/{seed}")
    try:
        rows, drawn = _reservoir(_rows(source), calibration + held_out, rng)
        least = (calibration > 0) + (held_out > 0)
        if rows < least:
            raise QuantizeError(
                f"--calibration: {source.name}: has {rows or 'no'} rows, and at least {least} are needed"
            )
        encoder = _Encoder(model, max_tokens, Data(prompt=source.prompt, response=source.response))
        samples = [encoder.encode(row, where) for where, row in drawn]
    except RecipeError as e:
        raise QuantizeError(f"--calibration: {e}") from e
    rng.shuffle(samples)
    kept = held_out
    if calibration and len(samples) < calibration + held_out:
        kept = min(held_out, max(1, len(samples) // 10))
    return Samples(tuple(samples[kept:]), tuple(samples[:kept]), rows)


def _rows(source: Source) -> Iterator[tuple[str, Any]]:
    from sun_sglang.train.data.dataset import rows_of_hub
    from sun_sglang.train.data.rows.files import rows_of_file
    from sun_sglang.train.recipe import Data

    path = Path(source.name).expanduser()
    if path.is_file():
        return rows_of_file(path, "--calibration")
    if source.name.startswith(STARTS) or path.suffix or path.exists():
        raise QuantizeError(f"--calibration: {source.name}: no such file")
    return rows_of_hub(Data(hub=source.name, config=source.config, split=source.split))


def _reservoir(rows: Iterable[Any], count: int, rng: Random) -> tuple[int, list[Any]]:
    """Return the number of rows, and `count` of them, each with the same chance (Vitter's algorithm R)."""
    kept: list[Any] = []
    number = 0
    for number, row in enumerate(rows, 1):
        if len(kept) < count:
            kept.append(row)
        elif (place := rng.randrange(number)) < count:
            kept[place] = row
    return number, kept


class _Encoder:
    """Turns rows into token ids as serving and training do."""

    def __init__(self, model: Path, max_tokens: int, columns: Data) -> None:
        from transformers import AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
        except Exception as e:  # a dozen types, about a file or its content
            raise QuantizeError(f"{model}: its tokenizer cannot be loaded ({type(e).__name__}: {e})") from e
        if isinstance(self._tokenizer.chat_template, dict):
            # serving takes the first of several
            self._tokenizer.chat_template = next(iter(self._tokenizer.chat_template.values()))
        config = read_json(model / "config.json")
        self._embeddings = config.get("vocab_size")
        self._model, self._most, self._columns = model, max_tokens, columns
        self._renderer: Any = None

    def encode(self, row: Any, where: str) -> Tokens:
        """Return the token ids of a row.

        Raises:
            QuantizeError: the row has no token, a token that the model lacks, or is a chat without a template.
            RecipeError: the row is neither a chat nor a text.
        """
        ids = self._ids(row, where)[: self._most]
        if not ids:
            raise QuantizeError(f"--calibration: {where}: has no token; remove the row")
        if isinstance(self._embeddings, int) and max(ids) >= self._embeddings:
            raise QuantizeError(
                f"--calibration: {where}: the tokenizer makes the id {max(ids)}, and the model has {self._embeddings} "
                "embeddings; give a model whose tokenizer fits"
            )
        return ids

    def _ids(self, row: Any, where: str) -> Tokens:
        from sun_sglang.train.data.rows.conversation import conversation_of

        text = row.get(_TEXT)
        if isinstance(text, str) and self._columns.prompt is None and not {"messages", "conversations"} & row.keys():
            if (half := next((i for i, c in enumerate(text) if "\ud800" <= c <= "\udfff"), None)) is not None:
                raise QuantizeError(
                    f"--calibration: {where}: character {half + 1} of `{_TEXT}` is half of a surrogate pair "
                    f"({text[half]!r}); replace it"
                )
            return tuple(self._tokenizer.encode(text, verbose=False))
        conversation = conversation_of(row, self._columns, where)
        if not conversation.turns:
            raise QuantizeError(f"--calibration: {where}: {conversation.left_out}; remove the row")
        found = self._chat().encode(conversation.turns[-1], where).example
        return (*found.prompt, *found.answer)

    def _chat(self) -> Any:
        from sun_sglang.train.data.rendering import ChatRenderer

        if self._renderer is None:
            if not self._tokenizer.chat_template:
                raise QuantizeError(
                    f"--calibration: holds chats, and the tokenizer of {self._model} has no chat template; put a "
                    "chat_template.jinja beside the weights, or give rows with a column `text`"
                )
            if self._tokenizer.eos_token_id is None:
                raise QuantizeError(f"{self._model}: its tokenizer has no end-of-text token, and every answer ends so")
            self._renderer = ChatRenderer(self._tokenizer)
        return self._renderer
