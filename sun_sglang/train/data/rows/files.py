"""Read the rows of a local file: JSON lines, a JSON array, CSV, TSV or Parquet, plain or compressed.

JSON and CSV are read line by line, and not by `datasets`: an error names its line, each row keeps its own keys (Arrow
gives every row the keys of all rows, with null), and a cell such as `007` or `NA` stays the text that it is.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from sun_sglang.errors import RecipeError

Row = Mapping[str, Any]
Placed = tuple[str, Row]
"""A row, and its place for error messages."""

_COMPRESSIONS: dict[bytes, Callable[[Path, str], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
_OTHER_ARCHIVES = {b"PK\x03\x04": "a zip archive", b"\x28\xb5\x2f\xfd": "compressed by zstd"}
_WIDE_ENCODINGS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_PARQUET_ROWS = 1000
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def rows_of_file(path: Path, key: str) -> Iterator[Placed]:
    """Yield the rows of a file. Its first bytes determine compression and Parquet, its suffix CSV and TSV.

    Args:
        path: the file.
        key: the recipe's key of the file, for error messages.

    Raises:
        RecipeError: the file cannot be read, or a line is no row; the message has the line.
    """
    try:
        yield from _rows(path)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as e:
        raise RecipeError(f"{key}: {path}: cannot be read ({getattr(e, 'strerror', None) or e})") from e


def without_nulls(value: Any) -> Any:
    """Return a value of Arrow without keys whose value is null: rows that lack a key have it as null."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list | tuple) else value


def _rows(path: Path) -> Iterator[Placed]:
    with path.open("rb") as plain:
        start = plain.read(8)
    for magic, problem in _OTHER_ARCHIVES.items():
        if start.startswith(magic):
            raise RecipeError(f"{path}: is {problem}; unpack it, or compress it by gzip")
    if start.startswith(b"PAR1"):
        yield from _parquet(path)
        return
    opener = next((found for magic, found in _COMPRESSIONS.items() if start.startswith(magic)), None)
    suffix = path.with_suffix("").suffix if opener and path.suffix.lower() not in _DELIMITERS else path.suffix
    with path.open("rb") if opener is None else opener(path, "rb") as opened:
        file = cast("BinaryIO", opened)
        delimiter = _DELIMITERS.get(suffix.lower())
        yield from _json(file, path) if delimiter is None else _csv(file, path, delimiter)


def _lines(file: BinaryIO, path: Path) -> Iterator[tuple[int, str]]:
    for number, raw in enumerate(file, 1):
        content = raw
        if number == 1:
            if raw.startswith(_WIDE_ENCODINGS):
                raise RecipeError(f"{path}: is UTF-16; save the file as UTF-8")
            content = raw.removeprefix(codecs.BOM_UTF8)
        try:
            yield number, content.decode("utf-8")
        except UnicodeDecodeError as e:
            raise RecipeError(
                f"{path}:{number}: is not UTF-8 (byte 0x{content[e.start]:02x} at position {e.start + 1}); save the "
                "file as UTF-8"
            ) from e


def _json(file: BinaryIO, path: Path) -> Iterator[Placed]:
    lines, is_first = _lines(file, path), True
    for number, line in lines:
        if not line.strip():
            continue
        if is_first and line.lstrip().startswith("["):
            yield from _array(path, number, line + "".join(text for _, text in lines))
            return
        is_first = False
        where = f"{path}:{number}"
        # a line that is cut off is at fault, and not the one after it
        yield where, _object(_parse(line.rstrip(), path, number), where)


def _array(path: Path, first_line: int, text: str) -> Iterator[Placed]:
    items = _parse(text, path, first_line)
    for number, item in enumerate(items, 1):
        where = f"{path}, item {number}"
        yield where, _object(item, where)


def _parse(text: str, path: Path, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as e:
        raise RecipeError(
            f"{path}:{line + e.lineno - 1}: is not JSON ({e.msg} at character {e.colno}); give one JSON object a line, "
            "or one JSON array"
        ) from e
    except RecursionError as e:
        raise RecipeError(f"{path}:{line}: is nested too deeply") from e


def _object(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise RecipeError(f"{where}: is not a JSON object")
    return value


def _csv(file: BinaryIO, path: Path, delimiter: str) -> Iterator[Placed]:
    reader = csv.reader((line for _, line in _lines(file, path)), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            where, line = f"{path}:{line}", reader.line_num + 1
            if not cells:
                continue
            if header is None:
                header = cells
                twice = [name for name in header if header.count(name) > 1]
                if twice:
                    raise RecipeError(f"{where}: the column `{twice[0]}` is there twice; rename one")
                continue
            if len(cells) != len(header):
                raise RecipeError(f"{where}: has {len(cells)} cells, and the header has {len(header)} columns")
            yield where, dict(zip(header, cells, strict=True))
    except csv.Error as e:
        raise RecipeError(f"{path}:{line}: is not CSV ({e}); long texts fit better into JSON lines") from e


def _parquet(path: Path) -> Iterator[Placed]:
    # not by `datasets`, which needs a cache directory that it can write
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as e:
        raise RecipeError(f"{path}: Parquet needs `pyarrow` ({e}); pip install 'sun-sglang[train]'") from e
    number = 0
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(_PARQUET_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", {name: without_nulls(value) for name, value in row.items()}
    except (OSError, ValueError, ArrowException) as e:
        raise RecipeError(f"{path}: is not a readable Parquet file ({type(e).__name__}: {e})") from e
