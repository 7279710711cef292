"""Parse a client's body into a checked, immutable request. Pure; raises RequestError and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from sun_sglang.errors import RequestError
from sun_sglang.router.protocol.fields import check as fields
from sun_sglang.router.protocol.fields import table as tables
from sun_sglang.router.protocol.fields.messages import check_messages, check_template_variables
from sun_sglang.router.protocol.fields.schemas import (
    check_depth,
    check_grammars,
    check_min_tokens,
    check_schema_text,
    check_tools,
)
from sun_sglang.router.protocol.fields.value_types import FLAG
from sun_sglang.router.protocol.json_body import json_object
from sun_sglang.router.protocol.translation.field_names import named_for_client
from sun_sglang.router.protocol.translation.interface import Translation

# endpoints of other APIs, which are served as chat completions
RESPONSES_PATH, MESSAGES_PATH = "/v1/responses", "/v1/messages"
STREAM_OPTIONS = ("include_usage", "continuous_usage_stats")


Translate = Callable[[bytes], Translation]


class Endpoint(StrEnum):
    """The endpoint of a request: its path on the router and on the workers."""

    GENERATE = "/generate"
    COMPLETIONS = "/v1/completions"
    CHAT = "/v1/chat/completions"


class Request(NamedTuple):
    """A checked request: the fields that the workers receive, and those that the router reads itself.

    Attributes:
        endpoint: the endpoint that the client called.
        task: the requested task.
        body: the fields that are forwarded (`fields/table.py`) and no others. Must not be modified.
        stream: the client asked for server-sent events.
        stream_options: the client's stream options; None if it sent none.
        n: answers to each prompt.
        rid: the client's id of the request, or one id for each prompt; None if it sent none.
        extra_key: the client's part of the cache namespace, for all prompts or for each; None if it sent none.
        cache_salt: the same, under SGLang's other name.
        batch: number of prompts in a list; None for a single prompt.
        translation: puts the answer into the client's API; None if the client called `endpoint` itself.
    """

    endpoint: Endpoint
    task: str
    body: dict[str, Any]
    stream: bool
    stream_options: Mapping[str, Any] | None
    n: int
    rid: str | tuple[str, ...] | None
    extra_key: str | tuple[str, ...] | None
    cache_salt: str | tuple[str, ...] | None
    batch: int | None
    translation: Translation | None = None

    @property
    def include_usage(self) -> bool:
        """Whether the client asked for the usage event at the end of a stream."""
        return bool(self.stream_options and self.stream_options.get("include_usage"))


def parse_request(
    endpoint: Endpoint,
    raw: bytes,
    *,
    header_task: str | None,
    tasks: Sequence[str],
    allowed: Collection[str] = (),
    translate: Translate | None = None,
) -> Request:
    """Return the checked request of a body.

    Args:
        endpoint: the endpoint that the client called.
        raw: the body.
        header_task: the value of the header `X-Sun-Task`, which takes precedence over `model`; None without the header.
        tasks: names of the tasks that the client may call.
        allowed: the permissions that the topology grants (`router.allow`).
        translate: makes a request of `endpoint` from a body of another API; None if it is the client's own.

    Raises:
        RequestError: the request is invalid; names the first error.
    """
    translation = None if translate is None else translate(raw)
    if translation is None:
        given = json_object(raw)
        check_depth(raw, given)
    else:
        given = translation.body
    with named_for_client({} if translation is None else translation.names):
        table = _TABLES[endpoint]
        body = fields.forwarded_fields(given, table, allowed)
        task = choose_task(header_task, given.get("model"), tasks)
        batch, n = _SHAPES[endpoint](given, body, allowed)
        if (batch or 1) * n > fields.MAX_FAN_OUT:
            raise RequestError(
                400, f"{batch or 1} prompts with n={n} are over {fields.MAX_FAN_OUT} answers; split the list"
            )
        return Request(
            endpoint=endpoint,
            task=task,
            stream="stream" in given and bool(fields.read_field(given, "stream", table)),
            stream_options=_stream_options(given, table) if "stream_options" in given else None,
            n=n,
            rid=_names(given, "rid", table, batch, unique=True) if "rid" in given else None,
            extra_key=_names(given, "extra_key", table, batch) if "extra_key" in given else None,
            cache_salt=_names(given, "cache_salt", table, batch) if "cache_salt" in given else None,
            batch=batch,
            body=body,
            translation=translation,
        )


def choose_task(header: str | None, model: object, tasks: Sequence[str]) -> str:
    """Return the requested task.

    With exactly one task, a missing name and SGLang's placeholder `default` mean that task.

    Args:
        header: the value of `X-Sun-Task`; None without the header.
        model: the value of the field `model`.
        tasks: names of the tasks that the client may call.

    Raises:
        RequestError: 404 for an unknown name, 400 if a name is required and missing.
    """
    if header is None and model is not None and not isinstance(model, str):
        raise RequestError(400, "`model` must be the name of a task", param="model")
    name = header if header is not None else model
    if name in tasks:
        return str(name)
    if len(tasks) == 1 and name in (None, "", "default"):
        return tasks[0]
    listed = ", ".join(tasks)
    if name in (None, ""):
        message = f"the request names no task; send its name as `model` or as the header X-Sun-Task; tasks: {listed}"
        raise RequestError(400, message, param="model", code="model_required")
    raise RequestError(404, f"no task is named `{name}`; tasks: {listed}", param="model", code="model_not_found")


def _completions(given: Mapping[str, Any], body: dict[str, Any], allowed: Collection[str]) -> tuple[int | None, int]:
    n = fields.read_field(given, "n", tables.COMPLETIONS) or 1 if "n" in given else 1
    check_grammars(body, allowed)
    check_min_tokens(body.get("min_tokens"), body, "min_tokens")
    prompt = body.get("prompt")
    if isinstance(prompt, str) and prompt:
        return None, n
    if not isinstance(prompt, list) or not prompt:
        raise RequestError(400, "`prompt` must be a non-empty string or list", param="prompt")
    if _are_texts(prompt, "prompt"):
        return len(prompt), n
    if isinstance(prompt[0], list):
        for ids in prompt:
            fields.check_token_ids(ids, "prompt")
        return len(prompt), n
    fields.check_token_ids(prompt, "prompt")
    return None, n


def _are_texts(prompts: list[Any], name: str) -> bool:
    """Return whether a list of prompts holds texts. One text makes it such a list: the error names the other item."""
    if not any(isinstance(prompt, str) for prompt in prompts):
        return False
    for place, prompt in enumerate(prompts):
        if not isinstance(prompt, str) or not prompt:
            raise RequestError(400, f"`{name}[{place}]` must be a string that is not empty", param=name)
    return True


def _chat(given: Mapping[str, Any], body: dict[str, Any], allowed: Collection[str]) -> tuple[int | None, int]:
    n = fields.read_field(given, "n", tables.CHAT) or 1 if "n" in given else 1
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not {dict}.issuperset(map(type, messages)):
        raise RequestError(400, "`messages` must be a non-empty list of objects", param="messages")
    tools = [*(body.get("tools") or ())]
    check_messages(messages)
    check_template_variables(body.get("chat_template_kwargs"))
    for message in messages:
        if "tools" in message and isinstance(message["tools"], list):
            tools += message["tools"]
    if body.get("continue_final_message") and len(messages) == 1 and not messages[0].get("content"):
        message = (
            "`continue_final_message` has no text to continue, and no message comes before; send `messages` with text"
        )
        raise RequestError(400, message, param="continue_final_message")
    if tools:
        check_tools(tools, body.get("tool_choice"), allowed)
    check_grammars(body, allowed)
    check_min_tokens(body.get("min_tokens"), {**body, "tools": tools}, "min_tokens")
    if "input_ids" in body:
        fields.check_token_ids(body["input_ids"], "input_ids")
    return None, n


def _generate(given: Mapping[str, Any], body: dict[str, Any], allowed: Collection[str]) -> tuple[int | None, int]:
    batch = _generate_prompts(body)
    for name in tables.PER_PROMPT:
        if fields.is_per_prompt(value := body.get(name), name):
            _check_count(name, value, batch)
    return batch, _generate_sampling(body, batch, allowed)


def _generate_prompts(body: dict[str, Any]) -> int | None:
    given = [name for name in ("text", "input_ids") if name in body]
    if len(given) != 1:
        raise RequestError(400, "send either `text` or `input_ids`", param="text")
    name, prompt = given[0], body[given[0]]
    if name == "text":
        if isinstance(prompt, str) and prompt:
            return None
        if isinstance(prompt, list) and prompt and _are_texts(prompt, "text"):
            return len(prompt)
        raise RequestError(400, "`text` must be a non-empty string or a list of them", param="text")
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], list):
        for ids in prompt:
            fields.check_token_ids(ids, "input_ids")
        return len(prompt)
    fields.check_token_ids(prompt, "input_ids")
    return None


def _generate_sampling(body: dict[str, Any], batch: int | None, allowed: Collection[str]) -> int:
    given = body.get("sampling_params")
    if given is None:
        return 1
    each = given if isinstance(given, list) else [given]
    if isinstance(given, list) and len(given) != batch:
        raise RequestError(400, "`sampling_params` must be an object, or one for each prompt", param="sampling_params")
    counts, kept = [], []
    for params in each:
        if not isinstance(params, dict):
            raise RequestError(400, "`sampling_params` must be an object", param="sampling_params")
        counts.append(fields.read_field(params, "n", tables.SAMPLING_PARAMS, "sampling_params.n") or 1)
        kept.append(fields.forwarded_sampling_params(params, allowed))
        if (schema := kept[-1].get("json_schema")) is not None:
            check_schema_text(schema, "sampling_params.json_schema", allowed)
        check_min_tokens(kept[-1].get("min_new_tokens"), kept[-1], "sampling_params.min_new_tokens")
    if len(set(counts)) != 1:
        raise RequestError(400, "`n` must be the same for every prompt of a list", param="sampling_params.n")
    body["sampling_params"] = kept if isinstance(given, list) else kept[0]
    return int(counts[0])


def _stream_options(given: Mapping[str, Any], table: tables.Table) -> Mapping[str, Any] | None:
    if "stream_options" not in table:
        return None
    options = fields.read_field(given, "stream_options", table)
    if options is None:
        return None
    kept = {}
    for name, value in options.items():
        if name in STREAM_OPTIONS and value is not None:
            kept[name] = fields.checked_value(f"stream_options.{name}", FLAG, value, lax=True)
    return kept


def _names(
    given: Mapping[str, Any], name: str, table: tables.Table, batch: int | None, *, unique: bool = False
) -> str | tuple[str, ...] | None:
    value = given.get(name)
    if not isinstance(value, list):
        return fields.read_field(given, name, table) or None
    for item in value:
        if item is None:
            raise RequestError(400, f"`{name}` holds null", param=name)
        fields.read_field({name: item}, name, table)
    _check_count(name, value, batch)
    if unique and len(set(value)) != batch:
        raise RequestError(400, f"`{name}` holds the same id twice", param=name)
    return tuple(value)


def _check_count(name: str, values: list[Any], batch: int | None) -> None:
    if batch is None:
        raise RequestError(400, f"`{name}` is a list, and there is one prompt; send one value", param=name)
    if len(values) != batch:
        raise RequestError(400, f"`{name}` has {len(values)} entries for {batch} prompts", param=name)


_SHAPES = {Endpoint.COMPLETIONS: _completions, Endpoint.CHAT: _chat, Endpoint.GENERATE: _generate}
_TABLES = {Endpoint.COMPLETIONS: tables.COMPLETIONS, Endpoint.CHAT: tables.CHAT, Endpoint.GENERATE: tables.GENERATE}
