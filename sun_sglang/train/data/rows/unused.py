"""The columns of a row that a known format does not read: noted, or refused where they belong to the prompt. Pure."""

from __future__ import annotations

import json
import re
from typing import Any

from sun_sglang.errors import RecipeError
from sun_sglang.train.data.rows.columns import Columns, Row, is_null

# names that people give to a part of the prompt, in lower case with underscores; first those that no message has either
_BESIDE_MESSAGES = frozenset(
    {
        *("audio", "chat_template_kwargs", "documents", "functions", "history", "image", "images", "system"),
        *("system_message", "system_prompt", "tools", "video", "videos"),
    }
)
_OF_PROMPT = _BESIDE_MESSAGES | {
    *("article", "background", "choices", "code_context", "context", "contexts", "document", "facts", "input"),
    *("inputs", "instruction", "instructions", "knowledge", "options", "paragraph", "passage", "passages", "persona"),
    *("question", "query", "schema", "table", "user_input"),
}
_SEPARATORS = re.compile(r"[^0-9a-z]+")


def unused_columns(row: Row, columns: Columns, where: str) -> tuple[str, ...]:
    """Return the columns of a row that its format does not read, in the row's order.

    Args:
        row: the row.
        columns: the columns of its format; the recipe names none.
        where: its place, for error messages.

    Raises:
        RecipeError: one of them has the name of a part of the prompt, and is not empty.
    """
    texts = [text for text in columns[1:] if text is not None]
    used = {name for name in row for text in texts if name == text or (text not in row and f"{{{name}}}" in text)}
    parts = _BESIDE_MESSAGES if columns.messages is not None else _OF_PROMPT
    unused = [name for name in row if name not in used and not (_plain(name) in parts and _is_empty(row[name]))]
    for name in unused:
        if _plain(name) in parts:
            raise RecipeError(f"{where}: data: the column `{name}` would be left out; {_fix(name, row, columns)}")
    return tuple(unused)


def _fix(name: str, row: Row, columns: Columns) -> str:
    if columns.messages is not None:
        put = "put it into the messages (the columns `system` and `tools` are read)"
        return f"{put}, or leave it out with `data.messages: {columns.messages}`"
    prompt, response = columns.prompt, columns.response
    assert prompt is not None
    leave = f"leave it out with `data.prompt: {_quoted(prompt)}` and `data.response: {response}`"
    if any(isinstance(value, list | tuple | dict) for value in (row.get(prompt), row[name])):
        return f"write both as `messages`, or {leave}"
    text = f"{{{prompt}}}" if prompt in row else prompt
    both = _quoted(f"{{{name}}}\n\n{text}")
    put = f"put it into the prompt with `data.prompt: {both}` and `data.response: {response}`"
    return f"{put}, or {leave}"


def _quoted(text: str) -> str:
    return json.dumps(text) if "{" in text else text


def _plain(name: str) -> str:
    return _SEPARATORS.sub("_", name.lower()).strip("_")


def _is_empty(value: Any) -> bool:
    return is_null(value) or (isinstance(value, str) and not value.strip()) or value in ([], {}, ())
