"""Requests for tokens, for their text, and for their number."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import orjson
from aiohttp import web

from sun_sglang.errors import RequestError
from sun_sglang.router.api.responses import json_response
from sun_sglang.router.auth.access import current_key, visible_tasks
from sun_sglang.router.auth.browser_guard import require_json
from sun_sglang.router.errors import ApiError
from sun_sglang.router.protocol.fan_out import SingleRequest, split_request
from sun_sglang.router.protocol.fields import check as fields
from sun_sglang.router.protocol.fields.value_types import FLAG
from sun_sglang.router.protocol.messages.request import MessageTranslation
from sun_sglang.router.protocol.request import Endpoint, Request, Translate, choose_task, parse_request
from sun_sglang.router.protocol.translation.reading import checked, invalid, parse_object
from sun_sglang.router.scheduling.cost import estimate_cost
from sun_sglang.router.serving.admission.tokenizer_client import MAX_REPLY_BYTES, TokenizerClient
from sun_sglang.router.serving.service import TASK_HEADER
from sun_sglang.router.workers.registry import Registry

# what a chat template needs of a chat completion
_RENDERED = ("messages", "tools", "tool_choice", "reasoning_effort", "chat_template_kwargs", "continue_final_message")
_MAX_PROMPTS = 1024
# of all prompts of one request; their ids take about seven bytes each in the response
_MAX_TOKENS = 1 << 20
_TOKENIZE, _DETOKENIZE = "/tokenize", "/detokenize"


class TokenHandlers:
    """Handlers of `/tokenize`, `/detokenize` and `/v1/messages/count_tokens`.

    A prompt has the same bounds as a prompt to be answered, and its expected tokens are charged to the request's key.
    The prompts of a list go to a worker one by one, so that other requests get their turn between two of them.

    Args:
        registry: tasks and their limits.
        check_length: refuses prompts that no worker accepts.
        client: sends requests to workers.
        now: the clock of the keys' rates, in seconds.
    """

    def __init__(
        self,
        registry: Registry,
        check_length: Callable[[Request, Sequence[SingleRequest]], Awaitable[object]],
        client: TokenizerClient,
        now: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._allowed = frozenset(registry.fleet.router.allow)
        self._check_length = check_length
        self._client = client
        self._now = now

    async def tokenize(self, http: web.Request) -> web.Response:
        """POST /tokenize: the token ids of `prompt`, a string or a list of strings, or of `messages`."""
        given = parse_object(await _read(http))
        if (given.get("prompt") is None) == (given.get("messages") is None):
            raise RequestError(400, "send either `prompt` or `messages`", param="prompt")
        flags = {
            name: value
            for name in ("add_special_tokens", "add_generation_prompt")
            if (value := checked(given, name, FLAG)) is not None
        }
        if given.get("messages") is not None:
            chat = {name: given.get(name) for name in ("model", *_RENDERED)}
            request = await self._checked_chat(http, orjson.dumps(chat))
            return json_response(await self._client.post(request.task, _TOKENIZE, {**_rendered(request), **flags}))
        prompts = given["prompt"] if isinstance(given["prompt"], list) else [given["prompt"]]
        if not prompts or len(prompts) > _MAX_PROMPTS or not all(isinstance(prompt, str) for prompt in prompts):
            raise invalid("prompt", f"a string, or a list of 1 to {_MAX_PROMPTS} strings")
        task = self._task(http, given)
        with self._charged(sum(_cost(Endpoint.COMPLETIONS, {"prompt": prompt}) for prompt in prompts)):
            for prompt in filter(None, prompts):
                body = orjson.dumps({"model": task, "prompt": prompt})
                request = self._parse(http, Endpoint.COMPLETIONS, body)
                await self._check_length(request, split_request(request))
        if not isinstance(given["prompt"], list):
            return json_response(await self._client.post(task, _TOKENIZE, {"prompt": prompts[0], **flags}))
        return await self._tokenize_list(task, prompts, flags)

    async def detokenize(self, http: web.Request) -> web.Response:
        """POST /detokenize: the text of `tokens`, a list of token ids or a list of such lists."""
        given = parse_object(await _read(http))
        tokens = given.get("tokens")
        if not isinstance(tokens, list):
            raise invalid("tokens", "a list of token ids, or a list of such lists")
        skip = checked(given, "skip_special_tokens", FLAG)
        flags = {} if skip is None else {"skip_special_tokens": skip}
        task = self._task(http, given)
        several = bool(tokens) and isinstance(tokens[0], list)
        lists = tokens if several else [tokens]
        if len(lists) > _MAX_PROMPTS:
            raise invalid("tokens", f"at most {_MAX_PROMPTS} lists")
        # before the ids are read one by one
        total = sum(len(ids) for ids in lists if isinstance(ids, list))
        if total > _MAX_TOKENS:
            raise _too_many("tokens")
        for ids in lists:
            self._check_ids(ids, task)
        self._charge(total)
        texts: list[str] = []
        size = 0
        for ids in lists:
            text = (await self._client.post(task, _DETOKENIZE, {"tokens": ids, **flags})).get("text") if ids else ""
            texts.append(text if isinstance(text, str) else "")
            if (size := size + len(texts[-1].encode(errors="replace"))) > MAX_REPLY_BYTES:
                raise _too_many("tokens")
        return json_response({"text": texts if several else texts[0]})

    async def count(self, http: web.Request) -> web.Response:
        """POST /v1/messages/count_tokens: the number of tokens of an Anthropic request."""
        raw = await _read(http)
        request = await self._checked_chat(http, raw, lambda body: MessageTranslation(body, counts=True))
        return json_response({"input_tokens": await self._client.count(request.task, _rendered(request))})

    async def _tokenize_list(self, task: str, prompts: Sequence[str], flags: Mapping[str, Any]) -> web.Response:
        first: dict[str, Any] = {}
        # as JSON: a list of integers takes five times the memory
        tokens: list[orjson.Fragment] = []
        counts: list[Any] = []
        total = 0
        for prompt in prompts:
            reply = await self._client.post(task, _TOKENIZE, {"prompt": prompt, **flags})
            ids = reply.pop("tokens", None)
            total += len(ids) if isinstance(ids, list) else 0
            if total > _MAX_TOKENS:
                raise _too_many("prompt")
            tokens.append(orjson.Fragment(orjson.dumps(ids)))
            counts.append(reply.get("count"))
            first = first or reply
        return json_response({**first, "tokens": tokens, "count": counts})

    @contextmanager
    def _charged(self, tokens: int) -> Iterator[None]:
        """Charge expected tokens to the client's key, and give them back if a check refuses the request."""
        self._charge(tokens)
        try:
            yield
        except (ApiError, RequestError):
            if (key := current_key.get()) is not None:
                key.refund(tokens)
            raise

    def _charge(self, tokens: int) -> None:
        if (key := current_key.get()) is not None:
            key.charge(tokens, self._now())

    async def _checked_chat(self, http: web.Request, body: bytes, translate: Translate | None = None) -> Request:
        """Return a chat completion that a worker would answer, so that its prompt is within the bounds."""
        request = self._parse(http, Endpoint.CHAT, body, translate)
        with self._charged(_cost(Endpoint.CHAT, request.body)):
            await self._check_length(request, split_request(request))
        return request

    def _parse(self, http: web.Request, endpoint: Endpoint, body: bytes, translate: Translate | None = None) -> Request:
        return parse_request(
            endpoint,
            body,
            header_task=http.headers.get(TASK_HEADER),
            tasks=visible_tasks(self._registry.task_names),
            allowed=self._allowed,
            translate=translate,
        )

    def _task(self, http: web.Request, given: Mapping[str, Any]) -> str:
        return choose_task(http.headers.get(TASK_HEADER), given.get("model"), visible_tasks(self._registry.task_names))

    def _check_ids(self, ids: object, task: str) -> None:
        if ids == []:
            return
        fields.check_token_ids(ids, "tokens")
        limit = self._registry.limit(task)
        if limit is None or not isinstance(ids, list):
            return
        if len(ids) > limit.tokens + 1:
            raise invalid("tokens", f"at most {limit.tokens + 1} token ids, the context of task `{task}`")
        if (largest := max(ids)) >= limit.vocab:
            raise RequestError(
                400, f"`tokens` holds {largest}; token ids go from 0 to {limit.vocab - 1}", param="tokens"
            )


async def _read(http: web.Request) -> bytes:
    require_json(http)
    return await http.read()


def _cost(endpoint: Endpoint, body: Mapping[str, Any]) -> int:
    return estimate_cost(endpoint, body).prefill


def _rendered(request: Request) -> dict[str, Any]:
    return {name: request.body[name] for name in _RENDERED if name in request.body}


def _too_many(param: str) -> RequestError:
    message = f"the response to one request has at most {_MAX_TOKENS} tokens, or {MAX_REPLY_BYTES >> 20} MiB of text"
    return RequestError(413, f"{message}; send shorter lists", param=param, code="response_too_large")
