"""A request of the Responses API as a chat completion. Pure; raises RequestError and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from sun_sglang.router.protocol.fields import value_types
from sun_sglang.router.protocol.responses.events import ResponseEvents
from sun_sglang.router.protocol.responses.items import messages_of
from sun_sglang.router.protocol.responses.reply import ResponseEcho
from sun_sglang.router.protocol.responses.tools import chat_tool_choice, chat_tools, response_format
from sun_sglang.router.protocol.translation.reading import (
    checked,
    common_fields,
    invalid,
    object_of,
    parse_object,
    refuse,
    refuse_format_with_tools,
)

_STATE = "this server keeps no state; send the whole conversation as `input`"
_REFUSED = {
    "previous_response_id": _STATE,
    "conversation": _STATE,
    "background": "an answer ends with its request; remove it",
    "prompt": "this server has no prompt templates; send `instructions` and `input`",
    "context_management": "this server does not shorten conversations; send a shorter `input`",
}
# answered, but without the part that they ask for: an encrypted copy of reasoning that is visible anyway, and results
# of tools that no request can have
_LOGPROBS = "message.output_text.logprobs"
_MAX_METADATA, _MAX_METADATA_TEXT = 16, 512
# OpenAI requires 16; SGLang reads 0 as no limit
_MOST = value_types.integer(1, value_types.INT32_MAX)
_EFFORT = value_types.text(32)
# OpenAI's limit; events repeat the entries, so SGLang's 128 would cost four times 10 KB for each token
_TOP_LOGPROBS = value_types.integer(0, 20)


class ResponseTranslation:
    """One request of the Responses API.

    Args:
        raw: the body.

    Attributes:
        body: the chat completion's body.
        names: see `Translation`.

    Raises:
        RequestError: 400, a field is invalid or not supported; names it.
    """

    names: ClassVar[Mapping[str, str]] = {
        "messages": "input",
        "max_completion_tokens": "max_output_tokens",
        "response_format": "text.format",
        "reasoning_effort": "reasoning.effort",
    }

    def __init__(self, raw: bytes) -> None:
        given = parse_object(raw)
        refuse(given, _REFUSED)
        self.body = _chat_body(given)
        self._echo = ResponseEcho(_echoed(given, self.body))

    def whole(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """Return the response to a whole answer."""
        events = self.writer()
        for _ in events.chunk(answer):
            pass
        return events.final_response()

    def writer(self) -> ResponseEvents:
        """Return the state machine of a streamed answer."""
        return ResponseEvents(self._echo)


def _chat_body(given: Mapping[str, Any]) -> dict[str, Any]:
    if given.get("input") is None:
        raise invalid("input", "a string or a list of items")
    body = common_fields(given)
    body["messages"] = messages_of(given.get("instructions"), given["input"])
    if not body["messages"]:
        raise invalid("input", "a string, or a list of items with a message")
    if (most := checked(given, "max_output_tokens", _MOST)) is not None:
        body["max_completion_tokens"] = most
    if (stop := checked(given, "stop", value_types.STOP)) is not None:
        body["stop"] = stop
    _add_tools(body, given)
    text = object_of(given.get("text") or {}, "text")
    if (wanted := response_format(text)) is not None:
        body["response_format"] = wanted
        refuse_format_with_tools(body, "text.format")
    reasoning = object_of(given.get("reasoning") or {}, "reasoning")
    if (effort := reasoning.get("effort")) is not None:
        if not _EFFORT.accepts(effort):
            raise invalid("reasoning.effort", _EFFORT.description)
        body["reasoning_effort"] = effort
    _add_logprobs(body, given)
    if checked(given, "stream", value_types.FLAG):
        body["stream_options"] = {"include_usage": True}
    return body


def _add_tools(body: dict[str, Any], given: Mapping[str, Any]) -> None:
    tools = chat_tools(given["tools"]) if given.get("tools") else []
    choice, tools = chat_tool_choice(given.get("tool_choice"), tools)
    if tools:
        body["tools"] = tools
        if choice is not None:
            body["tool_choice"] = choice
    elif choice not in (None, "auto", "none"):
        raise invalid("tools", "a list with a function if `tool_choice` requires a call")
    parallel = checked(given, "parallel_tool_calls", value_types.FLAG)
    if tools and parallel is not None:
        body["parallel_tool_calls"] = parallel


def _add_logprobs(body: dict[str, Any], given: Mapping[str, Any]) -> None:
    include = given.get("include") or ()
    if not isinstance(include, list | tuple) or not all(isinstance(name, str) for name in include):
        raise invalid("include", "a list of strings")
    top = checked(given, "top_logprobs", _TOP_LOGPROBS) or 0
    if top or _LOGPROBS in include:
        body["logprobs"] = True
        body["top_logprobs"] = top


def _echoed(given: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a response repeats, from the client's fields and the chat completion's."""
    metadata = object_of(given.get("metadata") or {}, "metadata")
    if len(metadata) > _MAX_METADATA or not all(
        isinstance(value, str) and len(value) <= _MAX_METADATA_TEXT for value in metadata.values()
    ):
        raise invalid("metadata", f"an object of at most {_MAX_METADATA} strings of {_MAX_METADATA_TEXT} characters")
    if given.get("truncation") not in (None, "auto", "disabled"):
        raise invalid("truncation", "`auto` or `disabled`")
    if not isinstance(given.get("store"), bool | None):
        raise invalid("store", "true or false")
    reasoning = given.get("reasoning") or {}
    if (summary := reasoning.get("summary")) not in (None, "auto", "concise", "detailed"):
        raise invalid("reasoning.summary", "`auto`, `concise` or `detailed`")
    instructions = given.get("instructions")
    return {
        "instructions": instructions if isinstance(instructions, str) else None,
        "max_output_tokens": body.get("max_completion_tokens"),
        "metadata": metadata,
        "parallel_tool_calls": checked(given, "parallel_tool_calls", value_types.FLAG) is not False,
        "reasoning": {"effort": reasoning.get("effort"), "summary": summary},
        "temperature": checked(given, "temperature", value_types.TEMPERATURE),
        "text": {"format": (given.get("text") or {}).get("format") or {"type": "text"}},
        "tool_choice": given.get("tool_choice") or "auto",
        # a client's type for a function requires both members
        "tools": [{"strict": None, "parameters": None, **tool} for tool in given.get("tools") or ()],
        "top_logprobs": body.get("top_logprobs") or 0,
        "top_p": checked(given, "top_p", value_types.TOP_P),
    }
