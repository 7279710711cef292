"""The columns of a row that a recipe names, or those of a known format. Pure.

A text of a recipe that is a column's name is that column. Any other text holds columns in braces. A null column in such
a text is empty; where nothing else remains, the row is refused. In a text with `{{`, `{{` and `}}` are braces, as in
`str.format`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import date, time
from decimal import Decimal
from typing import Any, NamedTuple

from sun_sglang.errors import RecipeError
from sun_sglang.strict import listed
from sun_sglang.train.data.rows.messages import is_message_list
from sun_sglang.train.recipe import Data

Row = Mapping[str, Any]
Part = str | list[Any]
"""A text, or a list of messages."""

_BRACES = re.compile(r"\{([^{}]*)\}")
_WITH_ESCAPES = re.compile(r"\{\{|\}\}|" + _BRACES.pattern)
# a text in braces with one of these is JSON or prose and no column's name
_NOT_A_NAME = re.compile(r"[\"':,\n]|^\s*$")


class Columns(NamedTuple):
    """Where a row has its parts: column names, or texts with columns in braces.

    Attributes:
        format: name of the format, for display.
        messages: column of a chat. Either this or `prompt`.
        prompt: the user's turn, or the messages before the answer.
        response: the answer; None where it is in `messages`.
        system: the system message; None for none.
        tools: column of the tools; None for none.
    """

    format: str
    messages: str | None = None
    prompt: str | None = None
    response: str | None = None
    system: str | None = None
    tools: str | None = None


class _Format(NamedTuple):
    needs: frozenset[str]
    columns: Callable[[Row], Columns]


def find_columns(data: Data, row: Row, where: str) -> Columns:
    """Return the columns that the recipe names; where it names none, those of the format that the row has.

    Args:
        data: the recipe's `data`.
        row: a row.
        where: its place, for error messages.

    Raises:
        RecipeError: the recipe names no columns, and the row has none of the known formats.
    """
    tools = data.tools if isinstance(data.tools, str) else None
    if data.messages is not None or data.prompt is not None:
        named = Columns("the recipe's columns", data.messages, data.prompt, data.response, data.system, tools)
        chat = data.messages is not None or is_message_list(row.get(data.prompt or ""))
        # some files of ShareGPT's form have the system message in a column of its own
        named = named._replace(system=named.system or _optional("system", row)) if data.messages is not None else named
        return named if tools or not chat else named._replace(tools=_optional("tools", row))
    for known in _FORMATS:
        if known.needs <= row.keys():
            columns = known.columns(row)
            return columns._replace(tools=tools or _optional("tools", row))
    raise RecipeError(
        f"{where}: data: the columns {listed(row)} are of no known format; name `messages`, or `prompt` and `response`"
    )


def part_of(row: Row, wanted: str, where: str) -> Part:
    """Return a column's text or messages, or a text with at least one column in braces; empty where all are null.

    Args:
        row: the row.
        wanted: a column's name, or a text.
        where: place and key, for error messages.

    Raises:
        RecipeError: a column is missing or has another type.
    """
    names = [match[1] for match in _braces_of(wanted).finditer(wanted) if match[1] is not None]
    if wanted not in row and not any(name in row for name in names):
        name = next((name for name in names if not _NOT_A_NAME.search(name)), wanted)
        raise RecipeError(f"{where}: no column `{name}`; columns: {', '.join(row)}")
    return _filled(row, wanted, where)


def text_of(row: Row, wanted: str, where: str) -> str:
    """Return a column's text, or a text with or without columns in braces.

    Raises:
        RecipeError: it is a list of messages, or a column is missing.
    """
    part = _filled(row, wanted, where)
    if not isinstance(part, str):
        raise RecipeError(f"{where}: column `{wanted}` is a list of messages, and a text is needed")
    return part


def _filled(row: Row, wanted: str, where: str) -> Part:
    if wanted in row:
        value = row[wanted]
        if is_message_list(value):
            return list(value)
        if isinstance(value, list | tuple | Mapping):
            raise RecipeError(
                f"{where}: column `{wanted}` is neither text nor a list of messages; write `{{{wanted}}}` to get its "
                "JSON text"
            )
        return _as_text(value, f"{where}: column `{wanted}`")
    return _braces_of(wanted).sub(lambda match: _column(row, match, where), wanted)


def _braces_of(text: str) -> re.Pattern[str]:
    # a text of JSON that ends with `}}` needs no escapes
    return _WITH_ESCAPES if "{{" in text else _BRACES


def _column(row: Row, match: re.Match[str], where: str) -> str:
    name = match[1]
    if name is None:
        return match[0][0]
    if name not in row:
        if _NOT_A_NAME.search(name):
            return match[0]
        raise RecipeError(f"{where}: no column `{name}`; columns: {', '.join(row)}")
    if is_message_list(row[name]):
        raise RecipeError(f"{where}: column `{name}` is a list of messages; name it without braces")
    return _as_text(row[name], f"{where}: column `{name}`")


def is_null(value: Any) -> bool:
    """Return whether a value is missing: null, or the NaN that pandas writes for it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _as_text(value: Any, where: str) -> str:
    if is_null(value):
        return ""
    if isinstance(value, date | time | Decimal):
        # Parquet has them; `str` gives the form of ISO 8601
        return str(value)
    try:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError) as e:
        raise RecipeError(f"{where} is no text ({e}); write it as text") from e


def _optional(column: str, row: Row) -> str | None:
    return column if column in row else None


def _chat(column: str, name: str) -> _Format:
    def columns(row: Row) -> Columns:
        return Columns(name, messages=column, system=_optional("system", row))

    return _Format(frozenset({column}), columns)


def _alpaca(row: Row) -> Columns:
    prompt = "{instruction}\n\n{input}" if row.get("input") else "instruction"
    return Columns("Alpaca", prompt=prompt, response="output", system=_optional("system", row))


def _pair(prompt: str, response: str) -> _Format:
    def columns(row: Row) -> Columns:
        return Columns(f"{prompt} and {response}", prompt=prompt, response=response, system=_optional("system", row))

    return _Format(frozenset({prompt, response}), columns)


_FORMATS = (
    _chat("messages", "chat messages"),
    _chat("conversations", "ShareGPT"),
    _Format(frozenset({"instruction", "output"}), _alpaca),
    *(
        _pair(*names)
        for names in (("prompt", "completion"), ("prompt", "response"), ("question", "answer"), ("query", "response"))
    ),
)
