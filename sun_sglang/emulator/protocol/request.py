"""From the body of a request to what it asks for, with SGLang's refusals. Pure.

Kept to what a load balancer can see: which bodies are refused, with which status and shape, and what is generated.
Constraints on the text (grammars, tools) are accepted and have no effect.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from sun_sglang.emulator.protocol.contract import check_sampling
from sun_sglang.emulator.protocol.errors import BadValueError, BrokenBodyError, InternalError
from sun_sglang.emulator.protocol.fake_tokens import encode, encode_chat
from sun_sglang.emulator.protocol.versions import ReplyShapes

GENERATE, COMPLETIONS, CHAT = "/generate", "/v1/completions", "/v1/chat/completions"
# SGLang's defaults (sampling/sampling_params.py, entrypoints/openai/protocol.py)
_DEFAULT_NEW_TOKENS = 128
_DEFAULT_COMPLETION_TOKENS = 16


@dataclass(frozen=True, slots=True)
class LogprobOptions:
    """Which log probabilities an answer carries. `start` is a position in the prompt, -1 for none of it."""

    start: int
    top: int
    ids: tuple[int, ...]
    text: bool


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One request.

    Attributes:
        endpoint: path that it came to.
        rid: its id.
        model: what the reply calls the model.
        prompt: token ids.
        text: the prompt as text, for an echo.
        limit: tokens wanted.
        stop: strings that end the answer.
        stop_ids: tokens that end it.
        keep_stop: the stop string stays in the answer.
        stream: as server-sent events.
        usage: a usage event ends the stream.
        usage_always: every event carries usage.
        logprobs: None for none.
        echo: the answer begins with the prompt.
        token_ids: the answer carries token ids.
        namespace: cache namespace.
        host: where its prefill worker is met.
        port: the prefill worker's bootstrap port.
        room: where the two legs meet; None for an aggregated request.
    """

    endpoint: str
    rid: str
    model: str
    prompt: tuple[int, ...]
    text: str
    limit: int
    stop: tuple[str, ...]
    stop_ids: frozenset[int]
    keep_stop: bool
    stream: bool
    usage: bool
    usage_always: bool
    logprobs: LogprobOptions | None
    echo: bool
    token_ids: bool
    namespace: str
    host: str
    port: int
    room: int | None


@dataclass(frozen=True, slots=True)
class Reader:
    """How a worker reads text, and how much of it it takes.

    Attributes:
        bytes_per_token: as in `sun_sglang.emulator.protocol.fake_tokens`.
        vocab_size: token ids are below.
        context: SGLang's context length.
        longest_request: a longer answer is cut.
        longest_prompt: prompts of this length or more are refused.
        shapes: what the emulated version of SGLang replies.
    """

    bytes_per_token: int
    vocab_size: int
    context: int
    longest_request: int
    longest_prompt: int
    shapes: ReplyShapes

    def encode(self, text: str) -> list[int]:
        """Text as token ids."""
        return encode(text, bytes_per_token=self.bytes_per_token, vocab_size=self.vocab_size)

    def encode_chat(self, messages: list[Mapping[str, Any]]) -> list[int]:
        """A chat as token ids."""
        return encode_chat(messages, bytes_per_token=self.bytes_per_token, vocab_size=self.vocab_size)


def parse_ask(endpoint: str, raw: bytes, reader: Reader) -> GenerationRequest:
    """What a body asks for.

    Raises:
        BrokenBodyError: not JSON, or not of the right types.
        BadValueError: a value that SGLang refuses.
        ContractError: a sampling parameter of `/generate` that its schema refuses.
        InternalError: what SGLang answers 500 to.
    """
    body = parse_object(raw)
    match endpoint:
        case "/generate":
            return _generate(body, reader)
        case "/v1/completions":
            return _completions(body, reader)
        case _:
            return _chat(body, reader)


def parse_object(raw: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        BrokenBodyError: it is none.
    """
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as e:
        raise BrokenBodyError("json_invalid", ("body", e.pos), "JSON decode error") from e
    if not isinstance(body, dict):
        raise BrokenBodyError("dict_type", ("body",), "Input should be a dictionary")
    return body


def _generate(body: dict[str, Any], reader: Reader) -> GenerationRequest:
    ids, text = body.get("input_ids"), body.get("text")
    if ids is not None and not isinstance(ids, list):
        raise BrokenBodyError("value_error", ("body", "input_ids"), "Value error, must be list or null")
    params = body.get("sampling_params") or {}
    if not isinstance(params, dict):
        raise BrokenBodyError("dict_type", ("body", "sampling_params"), "Input should be a valid dictionary")
    if reader.shapes.contract is not None:
        check_sampling(params, reader.shapes.contract)
    if ids is None and text is None:
        raise BadValueError("Either text, input_ids or input_embeds should be provided.", GENERATE)
    if ids is not None and not ids:
        raise BadValueError("input_ids cannot be empty.", GENERATE)
    if body.get("session_params"):
        name = dict(body["session_params"]).get("id")
        raise BadValueError(f"Invalid request: session id {name} does not exist", GENERATE)
    if body.get("lora_path"):
        raise BadValueError(
            f"LoRA adapter '{body['lora_path']}' was requested, but LoRA is not enabled. Please launch the server with "
            "--enable-lora flag and preload adapters using --lora-paths or /load_lora_adapter endpoint.",
            GENERATE,
        )
    if unknown := params.keys() - reader.shapes.sampling:
        raise InternalError(f"unexpected sampling parameter {sorted(unknown)[0]!r}")
    logprobs = None
    if body.get("return_logprob"):
        start = body.get("logprob_start_len")
        logprobs = LogprobOptions(
            start=-1 if start is None else int(start),
            top=int(body.get("top_logprobs_num") or 0),
            ids=tuple(body.get("token_ids_logprob") or ()),
            text=bool(body.get("return_text_in_logprobs")),
        )
    prompt = ids if ids is not None else reader.encode(_string(text, "text"))
    default = _DEFAULT_NEW_TOKENS if "max_new_tokens" not in params else None
    return _ask(
        GENERATE, body, params, prompt, reader, default, text=text or "", logprobs=logprobs, model="", token_ids=False
    )


def _completions(body: dict[str, Any], reader: Reader) -> GenerationRequest:
    if "prompt" not in body:
        raise BrokenBodyError("missing", ("body", "prompt"), "Field required")
    prompt = body["prompt"]
    limit = _integer(body, "max_tokens")
    if limit is not None and limit <= 0:
        raise BrokenBodyError("value_error", ("body", "max_tokens"), "Value error, max_tokens must be positive")
    if not prompt:
        raise BadValueError("Prompt cannot be empty", COMPLETIONS)
    text = prompt if isinstance(prompt, str) else ""
    ids = reader.encode(prompt) if isinstance(prompt, str) else prompt
    logprobs = None
    if body.get("logprobs") is not None:
        echoed = bool(body.get("echo")) and bool(body["logprobs"])
        logprobs = LogprobOptions(start=0 if echoed else -1, top=int(body["logprobs"]), ids=(), text=True)
    params = {**body, "max_new_tokens": limit}
    return _ask(
        COMPLETIONS,
        body,
        params,
        ids,
        reader,
        _DEFAULT_COMPLETION_TOKENS,
        text=text,
        logprobs=logprobs,
        model=str(body.get("model") or "default"),
        token_ids=bool(body.get("return_token_ids")),
    )


def _chat(body: dict[str, Any], reader: Reader) -> GenerationRequest:
    if "messages" not in body:
        raise BrokenBodyError("missing", ("body", "messages"), "Field required")
    messages = body["messages"]
    if not isinstance(messages, list):
        raise BrokenBodyError("list_type", ("body", "messages"), "Input should be a valid list")
    for i, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if str(role).lower() not in reader.shapes.roles:
            problem = f"Value error, 'role' must be one of {reader.shapes.roles}"
            raise BrokenBodyError("value_error", ("body", "messages", i, "role"), problem)
    if not messages:
        raise BadValueError("Messages cannot be empty.", CHAT)
    limit = _integer(body, "max_tokens")
    limit = limit if limit is not None else _integer(body, "max_completion_tokens")
    ids = body.get("input_ids") or reader.encode_chat(messages)
    logprobs = None
    if body.get("logprobs"):
        logprobs = LogprobOptions(start=-1, top=int(body.get("top_logprobs") or 0), ids=(), text=True)
    params = {**body, "max_new_tokens": limit}
    return _ask(
        CHAT,
        body,
        params,
        ids,
        reader,
        None,
        text="",
        logprobs=logprobs,
        model=str(body.get("model") or "default"),
        token_ids=False,
    )


def _ask(
    endpoint: str,
    body: dict[str, Any],
    params: dict[str, Any],
    prompt: list[int],
    reader: Reader,
    default: int | None,
    *,
    text: str,
    logprobs: LogprobOptions | None,
    model: str,
    token_ids: bool,
) -> GenerationRequest:
    limit = params.get("max_new_tokens")
    limit = default if limit is None else limit
    _check_length(endpoint, prompt, limit, reader)
    _check_sampling(endpoint, params, limit)
    if len(prompt) >= reader.longest_prompt:
        raise BadValueError(
            f"Input length ({len(prompt)} tokens) exceeds the maximum allowed length ({reader.longest_prompt} tokens). "
            "Use a shorter input or enable --allow-auto-truncate.",
            endpoint,
        )
    room_left = max(0, reader.longest_request - len(prompt) - 1)
    options = body.get("stream_options") or {}
    return GenerationRequest(
        endpoint=endpoint,
        rid=_string(body.get("rid") or uuid.uuid4().hex, "rid"),
        model=model,
        prompt=tuple(prompt),
        text=text,
        limit=room_left if limit is None else min(limit, room_left),
        stop=_stops(params, endpoint),
        stop_ids=frozenset(params.get("stop_token_ids") or ()),
        keep_stop=bool(params.get("no_stop_trim")),
        stream=bool(body.get("stream")),
        usage=bool(options.get("include_usage")),
        usage_always=bool(options.get("continuous_usage_stats")),
        logprobs=logprobs,
        echo=bool(body.get("echo")) and endpoint == COMPLETIONS,
        token_ids=token_ids,
        namespace=orjson.dumps([body.get("extra_key"), body.get("cache_salt")]).decode(),
        host=str(body.get("bootstrap_host") or ""),
        port=int(body.get("bootstrap_port") or 0),
        room=body.get("bootstrap_room"),
    )


def _check_length(endpoint: str, prompt: list[int], limit: int | None, reader: Reader) -> None:
    size = len(prompt)
    if size >= reader.context:
        problem = f"The input ({size} tokens) is longer than the model's context length ({reader.context} tokens)."
        raise BadValueError(problem, endpoint)
    if limit is not None and not isinstance(limit, bool) and isinstance(limit, int) and size + limit > reader.context:
        raise BadValueError(
            f"Requested token count exceeds the model's maximum context length of {reader.context} tokens. You "
            f"requested a total of {size + limit} tokens: {size} tokens from the input messages and {limit} tokens for "
            "the completion. Please reduce the number of tokens in the input messages or the completion to fit within "
            "the limit.",
            endpoint,
        )


def _check_sampling(endpoint: str, params: Mapping[str, Any], limit: int | None) -> None:
    temperature = _number(params, "temperature", 1.0, endpoint)
    if not math.isfinite(temperature) or temperature < 0:
        raise BadValueError(f"temperature must be a non-negative finite number, got {temperature}.", endpoint)
    top_p = _number(params, "top_p", 1.0, endpoint)
    # a temperature of 0 is greedy, whatever top_k says
    top_k = _number(params, "top_k", -1, endpoint) if temperature >= 1e-6 else 1
    if not 0 < top_p <= 1:
        raise BadValueError(f"top_p must be in (0, 1], got {top_p}.", endpoint)
    if top_k < 1 and top_k != -1:
        raise BadValueError(f"top_k must be -1 (disable) or at least 1, got {top_k}.", endpoint)
    if limit is not None and limit < 0:
        raise BadValueError(f"max_new_tokens must be at least 0, got {limit}.", endpoint)
    least = _number(params, "min_new_tokens", 0, endpoint)
    if limit is not None and not 0 <= least <= limit:
        raise BadValueError(f"min_new_tokens must be in [0, max_new_tokens({limit})], got {least}.", endpoint)


def _stops(params: Mapping[str, Any], endpoint: str) -> tuple[str, ...]:
    stop = params.get("stop") or ()
    if isinstance(stop, str):
        return (stop,)
    if not isinstance(stop, (list, tuple)):
        if endpoint == GENERATE:
            raise InternalError("stop is neither text nor a list")
        raise BrokenBodyError("string_type", ("body", "stop"), "Input should be a valid string")
    return tuple(stop)


def _number(params: Mapping[str, Any], name: str, default: float, endpoint: str) -> float:
    value = params.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        if endpoint == GENERATE:
            # where no schema refuses it, SGLang compares before it checks the type
            raise InternalError(f"{name} is not a number")
        raise BrokenBodyError("float_parsing", ("body", name), "Input should be a valid number")
    return float(value) if endpoint != GENERATE else value


def _integer(body: Mapping[str, Any], name: str) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    try:
        number = int(value)
    except (TypeError, ValueError) as e:
        raise BrokenBodyError("int_parsing", ("body", name), "Input should be a valid integer") from e
    return number


def _string(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise BrokenBodyError("string_type", ("body", name), "Input should be a valid string")
    return value
