"""From a row to a conversation, and from a conversation to the turns that are learned. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sun_sglang.errors import RecipeError
from sun_sglang.strict import listed
from sun_sglang.train.data.rows.columns import Columns, find_columns, is_null, part_of, text_of
from sun_sglang.train.data.rows.messages import Message, ParsedMessage, parse_messages
from sun_sglang.train.data.rows.tools import Tool, parse_tools
from sun_sglang.train.data.rows.unused import unused_columns
from sun_sglang.train.recipe import Data

Row = Mapping[str, Any]
# other names of `reasoning_content`
_REASONING = ("reasoning", "thinking", "thoughts", "thought")


class Turn(NamedTuple):
    """One example before it becomes tokens.

    Attributes:
        messages: the messages of the prompt.
        answer: a text that is learned as it is, or a message that is learned as the chat template renders it.
        tools: the tools that the prompt offers.
    """

    messages: list[Message]
    answer: str | Message
    tools: list[Tool] | None = None


class Conversation(NamedTuple):
    """A row as chat messages.

    Attributes:
        turns: the turns to learn.
        format: name of the row's format.
        unused: columns that the format does not read; none where the recipe names the columns.
        notes: what the user may not expect of the messages.
        left_out: the reason why there is no turn to learn; empty where there is one.
    """

    turns: list[Turn]
    format: str
    unused: tuple[str, ...] = ()
    notes: frozenset[str] = frozenset()
    left_out: str = ""


def conversation_of(row: Row, data: Data, where: str) -> Conversation:
    """Return the conversation of a row.

    Args:
        row: the row.
        data: the recipe's `data`.
        where: place of the row, for error messages.

    Raises:
        RecipeError: a column is missing or has another form, or the row has nothing to learn.
    """
    columns = find_columns(data, row, where)
    is_named = data.messages is not None or data.prompt is not None
    unused = () if is_named else unused_columns(row, columns, where)
    given = data.tools if isinstance(data.tools, tuple) else None
    tools = _tools(row, columns, where) or parse_tools(given, "data.tools")
    prompt, response = _prompt(row, columns, where), _response(row, columns, where)
    left_out = ""
    if isinstance(response, str):
        messages = prompt
        turns = [Turn([m.message for m in prompt], response, tools)]
    else:
        messages = [*prompt, *response]
        # without a column of its own the answer follows at least one message
        answers = _answers(messages, len(prompt) if response else 1, where)
        # every answer of a response has a loss
        chosen = answers if response or data.turns == "all" else answers[-1:]
        learned = [i for i in chosen if messages[i].learned]
        turns = [Turn([m.message for m in messages[:i]], messages[i].message, tools) for i in learned]
        left_out = "" if turns else _why_none(messages, answers)
    return Conversation(turns, columns.format, unused, _notes(messages, isinstance(response, str)), left_out)


def _why_none(messages: list[ParsedMessage], answers: list[int]) -> str:
    if any(messages[i].learned for i in answers):
        return "the last answer has `weight: 0`; `data.turns: all` learns the earlier ones"
    return "every answer has `weight: 0`"


def _notes(messages: list[ParsedMessage], are_prompt: bool) -> frozenset[str]:
    """Return the notes on messages; those of a prompt end before the answer, and not with it."""
    notes = {f"serving ignores the key `{key}` of messages" for m in messages for key in m.ignored}
    if not are_prompt and messages[-1].message["role"] != "assistant":
        notes.add("messages after the last answer are not read")
    return frozenset(notes)


def _prompt(row: Row, columns: Columns, where: str) -> list[ParsedMessage]:
    key = "messages" if columns.messages is not None else "prompt"
    place = f"{where}: data.{key}"
    if columns.messages is not None:
        if columns.messages not in row:
            raise RecipeError(f"{place}: no column `{columns.messages}`; columns: {', '.join(row)}")
        messages = parse_messages(row[columns.messages], f"{place}: `{columns.messages}`")
    else:
        assert columns.prompt is not None
        part = part_of(row, columns.prompt, place)
        if not part:
            raise RecipeError(f"{place}: `{columns.prompt}` is empty")
        if isinstance(part, str):
            messages = [ParsedMessage({"role": "user", "content": part})]
        else:
            messages = parse_messages(part, f"{place}: `{columns.prompt}`")
    system = text_of(row, columns.system, f"{where}: data.system") if columns.system else ""
    first = messages[0].message
    is_column = columns.system in row
    if system and is_column and first["role"] == "system" and first["content"] != system:
        raise RecipeError(
            f"{where}: data.system: `{columns.system}` and the first message are two system messages that differ; "
            "remove one"
        )
    if system and first["role"] != "system":
        messages.insert(0, ParsedMessage({"role": "system", "content": system}))
    return messages


def _response(row: Row, columns: Columns, where: str) -> str | list[ParsedMessage]:
    """Return the answer's text or its messages; no messages where the answer is part of the prompt's column."""
    if columns.response is None:
        return []
    place = f"{where}: data.response"
    part = part_of(row, columns.response, place)
    if isinstance(part, str):
        name = columns.response
        if not part and (name not in row or is_null(row[name])):
            raise RecipeError(f"{place}: `{name}` is null; remove the row, or write an empty text to learn no answer")
        return part
    return parse_messages(part, f"{place}: `{columns.response}`")


def _answers(messages: list[ParsedMessage], first: int, where: str) -> list[int]:
    """Return the indices of the assistant messages from `first` on; those that have a loss say something."""
    answers = [i for i, m in enumerate(messages) if i >= first and m.message["role"] == "assistant"]
    if not answers:
        raise RecipeError(f"{where}: data.messages: the row has no assistant message to learn")
    for i in (i for i in answers if messages[i].learned):
        dropped = next((key for key in messages[i].ignored if key in _REASONING), None)
        if dropped is not None:
            raise RecipeError(f"{where}: messages[{i}].{dropped}: is not read; write `reasoning_content`, or remove it")
        if messages[i].says_nothing:
            keys = f"; serving ignores its keys {listed(messages[i].ignored)}" if messages[i].ignored else ""
            raise RecipeError(f"{where}: messages[{i}]: the answer has neither `content` nor `tool_calls`{keys}")
    return answers


def _tools(row: Row, columns: Columns, where: str) -> list[Tool] | None:
    if columns.tools is None:
        return None
    if columns.tools not in row:
        raise RecipeError(f"{where}: data.tools: no column `{columns.tools}`; columns: {', '.join(row)}")
    return parse_tools(row[columns.tools], f"{where}: data.tools: `{columns.tools}`")
