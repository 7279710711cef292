"""From a client's body to a checked, immutable request. Pure; raises RequestError and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import orjson

from sun_sglang.errors import RequestError
from sun_sglang.router import fields
from sun_sglang.router.sampling import check_openai_sampling, check_sampling_params


class Endpoint(StrEnum):
    """Where a request came in; also the path on the workers."""

    GENERATE = "/generate"
    COMPLETIONS = "/v1/completions"
    CHAT = "/v1/chat/completions"


class Request(NamedTuple):
    """A checked request, as the client sent it, less what only the router may set.

    Attributes:
        endpoint: where it came in.
        task: the task it is for.
        body: what is left of the body: no task, stream, n, rid, namespace or reserved field in it. Not to be changed.
        stream: the client wants server-sent events.
        stream_options: the client's, if it sent any.
        n: choices a prompt.
        rid: the client's own id, or ids of the prompts of a list.
        extra_key: the client's part of the cache namespace; a list for a list of prompts.
        cache_salt: the same, under SGLang's other name for it.
        batch: prompts in a list; None for a single prompt.
    """

    endpoint: Endpoint
    task: str
    body: Mapping[str, Any]
    stream: bool
    stream_options: Mapping[str, Any] | None
    n: int
    rid: str | tuple[str, ...] | None
    extra_key: str | tuple[str, ...] | None
    cache_salt: str | tuple[str, ...] | None
    batch: int | None

    @property
    def wants_usage(self) -> bool:
        """The client asked for the usage event at the end of a stream."""
        return bool(self.stream_options and self.stream_options.get("include_usage"))


def parse(endpoint: Endpoint, raw: bytes, *, header_task: str | None, tasks: Sequence[str]) -> Request:
    """Check a request body.

    Args:
        endpoint: where it came in.
        raw: the body as bytes.
        header_task: the value of `X-Sun-Task`, which wins over `model`.
        tasks: names of the tasks that are served.

    Raises:
        RequestError: the first thing wrong.
    """
    body = _object(raw)
    if not fields.RESERVED.isdisjoint(body):
        fields.refuse_reserved(body)
        body = {name: value for name, value in body.items() if name not in fields.RESERVED}
    task = choose_task(header_task, body.pop("model", None), tasks)
    stream = fields.take_bool(body, "stream")
    options = body.pop("stream_options", None)
    if options is not None and not isinstance(options, dict):
        raise RequestError(400, "`stream_options` has to be an object", param="stream_options")
    fields.check_hidden_states(body)
    batch, n = _SHAPES[endpoint](body)
    if (batch or 1) * n > fields.MAX_FAN_OUT:
        raise RequestError(
            400, f"{batch or 1} prompts with n={n} are over {fields.MAX_FAN_OUT} answers; split the list"
        )
    return Request(
        endpoint=endpoint,
        task=task,
        stream=stream,
        stream_options=options,
        n=n,
        rid=_names(body, "rid", batch, unique=True),
        extra_key=_names(body, "extra_key", batch),
        cache_salt=_names(body, "cache_salt", batch),
        batch=batch,
        body=body,
    )


def choose_task(header: str | None, model: object, tasks: Sequence[str]) -> str:
    """The task that a request is for.

    SGLang's own name for "no model given" is `default`; with exactly one task it means that task, as does no name.

    Raises:
        RequestError: 404 for a name that no task has, 400 where a name is needed.
    """
    if header is None and model is not None and not isinstance(model, str):
        raise RequestError(400, "`model` has to be the name of a task", param="model")
    name = header if header is not None else model
    if name in tasks:
        return str(name)
    if len(tasks) == 1 and name in (None, "", "default"):
        return tasks[0]
    listed = ", ".join(tasks)
    if name in (None, ""):
        message = f"which task? Send its name as `model` or as the header X-Sun-Task; tasks: {listed}"
        raise RequestError(400, message, param="model", code="model_required")
    raise RequestError(404, f"no task is named `{name}`; tasks: {listed}", param="model", code="model_not_found")


def _object(raw: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as e:
        raise RequestError(400, f"the body is not valid JSON: {e}", code="invalid_json") from e
    if not isinstance(body, dict):
        raise RequestError(400, "the body has to be a JSON object", code="invalid_json")
    return body


def _completions(body: dict[str, Any]) -> tuple[int | None, int]:
    n = fields.take_count(body, "n", most=fields.MAX_CHOICES)
    check_openai_sampling(body)
    fields.check_top_logprobs(body, "logprobs")
    prompt = body.get("prompt")
    if isinstance(prompt, str) and prompt:
        return None, n
    if not isinstance(prompt, list) or not prompt:
        raise RequestError(400, "`prompt` has to be a non-empty string or list", param="prompt")
    if all(isinstance(p, str) and p for p in prompt):
        return len(prompt), n
    if isinstance(prompt[0], list):
        for ids in prompt:
            fields.check_token_ids(ids, "prompt")
        return len(prompt), n
    fields.check_token_ids(prompt, "prompt")
    return None, n


def _chat(body: dict[str, Any]) -> tuple[int | None, int]:
    n = fields.take_count(body, "n", most=fields.MAX_CHOICES)
    check_openai_sampling(body)
    fields.check_top_logprobs(body, "top_logprobs")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        raise RequestError(400, "`messages` has to be a non-empty list of objects", param="messages")
    if body.get("input_ids") is not None:
        fields.check_token_ids(body["input_ids"], "input_ids")
    return None, n


def _generate(body: dict[str, Any]) -> tuple[int | None, int]:
    batch = _generate_prompts(body)
    n = _generate_sampling(body, batch)
    fields.check_top_logprobs(body, "top_logprobs_num")
    fields.check_logprob_start(body)
    return batch, n


def _generate_prompts(body: dict[str, Any]) -> int | None:
    given = [name for name in ("text", "input_ids", "input_embeds") if body.get(name) is not None]
    if given == ["input_embeds"]:
        raise RequestError(400, "`input_embeds` is not supported; send `text` or `input_ids`", param="input_embeds")
    if len(given) != 1:
        raise RequestError(400, "send either `text` or `input_ids`", param="text")
    name, prompt = given[0], body[given[0]]
    if name == "text":
        if isinstance(prompt, str) and prompt:
            return None
        if isinstance(prompt, list) and prompt and all(isinstance(p, str) and p for p in prompt):
            return len(prompt)
        raise RequestError(400, "`text` has to be a non-empty string or a list of them", param="text")
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], list):
        for ids in prompt:
            fields.check_token_ids(ids, "input_ids")
        return len(prompt)
    fields.check_token_ids(prompt, "input_ids")
    return None


def _generate_sampling(body: dict[str, Any], batch: int | None) -> int:
    given = body.get("sampling_params")
    if given is None:
        return 1
    each = given if isinstance(given, list) else [given]
    if isinstance(given, list) and len(given) != batch:
        raise RequestError(
            400, "`sampling_params` has to be an object, or one for each prompt", param="sampling_params"
        )
    counts = []
    for params in each:
        if not isinstance(params, dict):
            raise RequestError(400, "`sampling_params` has to be an object", param="sampling_params")
        check_sampling_params(params)
        counts.append(fields.take_count(params, "n", most=fields.MAX_CHOICES))
    if len(set(counts)) != 1:
        raise RequestError(400, "`n` has to be the same for every prompt of a list", param="sampling_params.n")
    return counts[0]


def _names(body: dict[str, Any], name: str, batch: int | None, *, unique: bool = False) -> str | tuple[str, ...] | None:
    value = body.pop(name, None)
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return value
    if batch is None or not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise RequestError(400, f"`{name}` has to be a string, or a list of one for each prompt", param=name)
    if len(value) != batch:
        raise RequestError(400, f"`{name}` has {len(value)} entries for {batch} prompts", param=name)
    if unique and len(set(value)) != batch:
        raise RequestError(400, f"`{name}` holds the same id twice", param=name)
    return tuple(value)


_SHAPES = {Endpoint.COMPLETIONS: _completions, Endpoint.CHAT: _chat, Endpoint.GENERATE: _generate}
