"""From a request's body to a `GenerationRequest`, with SGLang's refusals. Pure.

Emulates only what a load balancer can observe: which bodies are refused, with which status and body, and what is
generated. Constraints on the text (grammars, tools) are accepted and have no effect.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from sun_sglang.contracts.first_token import ONE_TOKEN, read_mark
from sun_sglang.contracts.module import module_in
from sun_sglang.contracts.replay import read_replay, require_known
from sun_sglang.emulator.protocol.body import optional_integer, parse_object, require_string
from sun_sglang.emulator.protocol.errors import InternalError, InvalidBodyError, InvalidValueError
from sun_sglang.emulator.protocol.fake_tokens import encode, encode_chat
from sun_sglang.emulator.protocol.reply_shapes import ReplyShapes
from sun_sglang.emulator.protocol.request import CHAT, COMPLETIONS, GENERATE, GenerationRequest, LogprobOptions
from sun_sglang.emulator.protocol.sampling_schema import check_schema
from sun_sglang.emulator.protocol.value_checks import check_fits, check_length, check_sampling, stop_strings

# SGLang's defaults (sampling/sampling_params.py, entrypoints/openai/protocol.py)
_GENERATE_LIMIT = 128
_COMPLETION_LIMIT = 16


@dataclass(frozen=True, slots=True)
class _Parsed:
    """The fields of a request that each endpoint spells in its own way; the names are those of `GenerationRequest`."""

    endpoint: str
    prompt: list[int]
    limit: int | None
    logprobs: LogprobOptions | None
    text: str = ""
    model: str = ""
    token_ids: bool = False
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class RequestParser:
    """Parses the requests of one worker.

    Attributes:
        bytes_per_token: bytes of UTF-8 that count as one token (`fake_tokens.py`).
        vocab_size: every token id is below this number.
        context: SGLang's context length, tokens.
        longest_request: most tokens of prompt and generation together; a longer generation is cut.
        longest_prompt: prompts of this length or more are refused, tokens.
        shapes: the replies of the emulated version.
        served_model_name: the model's name.
        adapters_enabled: whether requests may use LoRA adapters.
    """

    bytes_per_token: int
    vocab_size: int
    context: int
    longest_request: int
    longest_prompt: int
    shapes: ReplyShapes
    served_model_name: str = ""
    adapters_enabled: bool = False

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text."""
        return encode(text, bytes_per_token=self.bytes_per_token, vocab_size=self.vocab_size)

    def encode_chat(self, messages: list[Mapping[str, Any]]) -> list[int]:
        """Return the token ids of a chat."""
        return encode_chat(messages, bytes_per_token=self.bytes_per_token, vocab_size=self.vocab_size)

    def parse(self, endpoint: str, raw: bytes) -> GenerationRequest:
        """Return the request of a body.

        Raises:
            InvalidBodyError: the body is not JSON, or a field has the wrong type.
            InvalidValueError: SGLang refuses a value.
            SchemaError: the schema of `/generate` refuses a sampling parameter.
            InternalError: SGLang answers 500.
        """
        body = parse_object(raw)
        match endpoint:
            case "/generate":
                params = self._sampling_params(body)
                return self._request(self._generate(body, params), body, params)
            case "/v1/completions":
                parsed = self._completion(body)
            case _:
                parsed = self._chat(body)
        return self._request(parsed, body, body)

    def _sampling_params(self, body: Mapping[str, Any]) -> dict[str, Any]:
        ids = body.get("input_ids")
        if ids is not None and not isinstance(ids, list):
            raise InvalidBodyError("value_error", ("body", "input_ids"), "Value error, must be list or null")
        params = body.get("sampling_params") or {}
        if not isinstance(params, dict):
            raise InvalidBodyError("dict_type", ("body", "sampling_params"), "Input should be a valid dictionary")
        if self.shapes.schema is not None:
            check_schema(params, self.shapes.schema)
        return params

    def _generate(self, body: Mapping[str, Any], params: Mapping[str, Any]) -> _Parsed:
        ids, text = body.get("input_ids"), body.get("text")
        if ids is None and text is None:
            raise InvalidValueError("Either text, input_ids or input_embeds should be provided.", GENERATE)
        if ids is not None and not ids:
            raise InvalidValueError("input_ids cannot be empty.", GENERATE)
        if body.get("session_params"):
            name = dict(body["session_params"]).get("id")
            raise InvalidValueError(f"Invalid request: session id {name} does not exist", GENERATE)
        adapter = self._adapter(body, GENERATE)
        if unknown := params.keys() - self.shapes.sampling:
            raise InternalError(f"unexpected sampling parameter {sorted(unknown)[0]!r}")
        logprobs = None
        if body.get("return_logprob"):
            start = body.get("logprob_start_len")
            logprobs = LogprobOptions(
                start=-1 if start is None else int(start),
                top=int(body.get("top_logprobs_num") or 0),
                ids=tuple(body.get("token_ids_logprob") or ()),
                with_text=bool(body.get("return_text_in_logprobs")),
            )
        prompt = ids if ids is not None else self.encode(require_string(text, "text"))
        # null asks for as many tokens as fit
        limit = params.get("max_new_tokens", _GENERATE_LIMIT)
        return _Parsed(GENERATE, prompt, limit, logprobs, text=text or "", adapter=adapter)

    def _completion(self, body: Mapping[str, Any]) -> _Parsed:
        if "prompt" not in body:
            raise InvalidBodyError("missing", ("body", "prompt"), "Field required")
        prompt = body["prompt"]
        limit = optional_integer(body, "max_tokens")
        if limit is not None and limit <= 0:
            raise InvalidBodyError("value_error", ("body", "max_tokens"), "Value error, max_tokens must be positive")
        if not prompt:
            raise InvalidValueError("Prompt cannot be empty", COMPLETIONS)
        logprobs = None
        if body.get("logprobs") is not None:
            echoed = bool(body.get("echo")) and bool(body["logprobs"])
            logprobs = LogprobOptions(start=0 if echoed else -1, top=int(body["logprobs"]), ids=(), with_text=True)
        is_text = isinstance(prompt, str)
        return _Parsed(
            COMPLETIONS,
            self.encode(prompt) if is_text else prompt,
            _COMPLETION_LIMIT if limit is None else limit,
            logprobs,
            text=prompt if is_text else "",
            model=str(body.get("model") or "default"),
            token_ids=bool(body.get("return_token_ids")),
            adapter=self._adapter(body, COMPLETIONS),
        )

    def _chat(self, body: Mapping[str, Any]) -> _Parsed:
        if "messages" not in body:
            raise InvalidBodyError("missing", ("body", "messages"), "Field required")
        messages = body["messages"]
        if not isinstance(messages, list):
            raise InvalidBodyError("list_type", ("body", "messages"), "Input should be a valid list")
        for i, message in enumerate(messages):
            role = message.get("role") if isinstance(message, dict) else None
            if str(role).lower() not in self.shapes.roles:
                problem = f"Value error, 'role' must be one of {self.shapes.roles}"
                raise InvalidBodyError("value_error", ("body", "messages", i, "role"), problem)
        if not messages:
            raise InvalidValueError("Messages cannot be empty.", CHAT)
        limit = optional_integer(body, "max_tokens")
        logprobs = None
        if body.get("logprobs"):
            logprobs = LogprobOptions(start=-1, top=int(body.get("top_logprobs") or 0), ids=(), with_text=True)
        return _Parsed(
            CHAT,
            body.get("input_ids") or self.encode_chat(messages),
            limit if limit is not None else optional_integer(body, "max_completion_tokens"),
            logprobs,
            model=str(body.get("model") or "default"),
            adapter=self._adapter(body, CHAT),
        )

    def _adapter(self, body: Mapping[str, Any], endpoint: str) -> str | None:
        """Return the name of the adapter that a body asks for; OpenAI's endpoints read it from `BASE:NAME` too."""
        name = body.get("lora_path") or None
        if endpoint != GENERATE:
            name = adapter_of_model(str(body.get("model") or "default"), self.served_model_name) or name
        if name is not None and not self.adapters_enabled:
            raise InvalidValueError(
                f"LoRA adapter '{name}' was requested, but LoRA is not enabled. Please launch the server with "
                "--enable-lora flag and preload adapters using --lora-paths or /load_lora_adapter endpoint.",
                endpoint,
            )
        return name if name is None else require_string(name, "lora_path")

    def _request(self, parsed: _Parsed, body: Mapping[str, Any], params: Mapping[str, Any]) -> GenerationRequest:
        """Check what all endpoints check; `params` holds the sampling parameters."""
        endpoint, prompt, limit = parsed.endpoint, parsed.prompt, parsed.limit
        try:
            replay = read_replay(body.get("extra_key"))
            if replay.tokens:
                require_known(replay.tokens, self.vocab_size)
        except ValueError as e:
            raise InvalidValueError(str(e), endpoint) from e
        mark = read_mark(replay.extra_key)
        check_length(endpoint, len(prompt), limit, self.context)
        if mark.decode_first and len(prompt) < 2:
            raise InvalidValueError(ONE_TOKEN, endpoint)
        check_sampling(endpoint, params, limit)
        # SGLang's schedulers do not count the last token of a prompt that the decode worker runs
        check_fits(endpoint, len(prompt) - mark.decode_first, self.longest_prompt)
        left = max(0, self.longest_request - len(prompt) - 1)
        options = body.get("stream_options") or {}
        return GenerationRequest(
            endpoint=endpoint,
            rid=require_string(body.get("rid") or uuid.uuid4().hex, "rid"),
            model=parsed.model,
            prompt=tuple(prompt),
            text=parsed.text,
            limit=left if limit is None else min(limit, left),
            stop=stop_strings(params, endpoint),
            stop_ids=frozenset(params.get("stop_token_ids") or ()),
            keep_stop=bool(params.get("no_stop_trim")),
            stream=bool(body.get("stream")),
            usage=bool(options.get("include_usage")),
            usage_in_every_event=bool(options.get("continuous_usage_stats")),
            logprobs=parsed.logprobs,
            echo=bool(body.get("echo")) and endpoint == COMPLETIONS,
            token_ids=parsed.token_ids,
            namespace=orjson.dumps([mark.namespace, body.get("cache_salt")]).decode(),
            host=str(body.get("bootstrap_host") or ""),
            port=int(body.get("bootstrap_port") or 0),
            room=body.get("bootstrap_room"),
            decode_first=mark.decode_first,
            adapter=parsed.adapter,
            module=module_in(mark.namespace),
            repeated=replay.tokens,
        )


def adapter_of_model(model: str, served_model_name: str) -> str | None:
    """Return the adapter in a model's name `BASE:NAME`, as SGLang's OpenAI endpoints read it; None if it names none.

    After `entrypoints/openai/serving_base.py`.

    Args:
        model: the request's model.
        served_model_name: the worker's name for its model, which may contain colons.
    """
    if ":" not in model or model == served_model_name:
        return None
    if model.startswith(f"{served_model_name}:"):
        return model[len(served_model_name) + 1 :].strip() or None
    return model.split(":", 1)[1].strip() or None
