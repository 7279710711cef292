"""A request of the Messages API as a chat completion. Pure; raises RequestError and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from sun_sglang.router.protocol.fields import value_types
from sun_sglang.router.protocol.messages.blocks import chat_messages, continues_answer
from sun_sglang.router.protocol.messages.events import MessageEvents
from sun_sglang.router.protocol.messages.reply import whole_message
from sun_sglang.router.protocol.messages.tools import tool_fields
from sun_sglang.router.protocol.translation.reading import (
    checked,
    common_fields,
    invalid,
    object_of,
    parse_object,
    refuse,
    refuse_format_with_tools,
)

_REFUSED = {
    "container": "this server runs no tools; remove it",
    "mcp_servers": "this server runs no tools; send their tools as `tools`",
}
_MOST = value_types.integer(1, value_types.INT32_MAX)
_THINKING = ("enabled", "adaptive", "disabled")
_EFFORTS = ("low", "medium", "high", "xhigh", "max")


class MessageTranslation:
    """One request of the Messages API.

    Args:
        raw: the body.
        counts: the request asks only for the number of its tokens.

    Attributes:
        body: the chat completion's body.
        names: see `Translation`.

    Raises:
        RequestError: 400, a field is invalid or not supported; names it.
    """

    names: ClassVar[Mapping[str, str]] = {
        "response_format": "output_config.format",
        "reasoning_effort": "output_config.effort",
        "stop": "stop_sequences",
    }

    def __init__(self, raw: bytes, *, counts: bool = False) -> None:
        given = parse_object(raw)
        refuse(given, _REFUSED)
        self.body = _chat_body(given)
        stops = self.body.get("stop") or ()
        self._stops = (stops,) if isinstance(stops, str) else tuple(stops)
        most = checked(given, "max_tokens", _MOST)
        if most is not None:
            self.body["max_tokens"] = most
        elif not counts:
            raise invalid("max_tokens", "a number of tokens: Anthropic's API requires it")

    def whole(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """Return the message for a whole answer."""
        return whole_message(answer, self._stops)

    def writer(self) -> MessageEvents:
        """Return the state machine of a streamed answer."""
        return MessageEvents(self._stops)


def _chat_body(given: Mapping[str, Any]) -> dict[str, Any]:
    body = common_fields(given)
    body["messages"] = chat_messages(given.get("system"), given.get("messages"))
    body.update(tool_fields(given))
    if continues_answer(body["messages"]):
        body["continue_final_message"] = True
    if stops := checked(given, "stop_sequences", value_types.STOP):
        if isinstance(stops, list) and "" in stops:
            raise invalid("stop_sequences", "a list of strings with text: an empty one would end the answer at once")
        body["stop"] = stops
    _add_thinking(body, given)
    _add_output(body, given)
    if checked(given, "stream", value_types.FLAG):
        # the first event has the usage of the prompt
        body["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    return body


def _add_thinking(body: dict[str, Any], given: Mapping[str, Any]) -> None:
    if given.get("thinking") is None:
        return
    kind = object_of(given["thinking"], "thinking").get("type")
    if kind not in _THINKING:
        raise invalid("thinking.type", "`enabled`, `adaptive` or `disabled`")
    thinks = kind != "disabled"
    # both are names that chat templates use (Qwen3, DeepSeek); others ignore them
    variables = object_of(body.get("chat_template_kwargs") or {}, "chat_template_kwargs")
    body["chat_template_kwargs"] = {"enable_thinking": thinks, "thinking": thinks, **variables}


def _add_output(body: dict[str, Any], given: Mapping[str, Any]) -> None:
    config = object_of(given.get("output_config") or {}, "output_config")
    if (effort := config.get("effort")) is not None:
        if effort not in _EFFORTS:
            raise invalid("output_config.effort", ", ".join(f"`{name}`" for name in _EFFORTS))
        body["reasoning_effort"] = effort
    for where, wanted in (
        ("output_config.format", config.get("format")),
        ("output_format", given.get("output_format")),
    ):
        if wanted is not None:
            schema = object_of(wanted, where)
            if schema.get("type") != "json_schema":
                raise invalid(f"{where}.type", "`json_schema`")
            named = {"name": "response", "schema": object_of(schema.get("schema"), f"{where}.schema"), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
            refuse_format_with_tools(body, where)
