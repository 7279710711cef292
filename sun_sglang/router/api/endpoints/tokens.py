"""Requests for tokens, for their text, and for their number."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import orjson
from aiohttp import web

from sun_sglang.errors import RequestError
from sun_sglang.router.api.responses import json_response
from sun_sglang.router.auth.access import current_key, visible_tasks
from sun_sglang.router.auth.browser_guard import require_json
from sun_sglang.router.protocol.fan_out import SingleRequest, split_request
from sun_sglang.router.protocol.fields import check as fields
from sun_sglang.router.protocol.fields.value_types import FLAG
from sun_sglang.router.protocol.messages.request import MessageTranslation
from sun_sglang.router.protocol.request import Endpoint, Request, Translate, choose_task, parse_request
from sun_sglang.router.protocol.translation.reading import checked, invalid, parse_object
from sun_sglang.router.serving.admission.tokenizer_client import TokenizerClient
from sun_sglang.router.serving.service import TASK_HEADER
from sun_sglang.router.workers.registry import Registry

# what a chat template needs of a chat completion
_RENDERED = ("messages", "tools", "tool_choice", "reasoning_effort", "chat_template_kwargs", "continue_final_message")
_MAX_PROMPTS = 1024
_TOKENIZE, _DETOKENIZE = "/tokenize", "/detokenize"


class TokenHandlers:
    """Handlers of `/tokenize`, `/detokenize` and `/v1/messages/count_tokens`.

    Each request counts as one of its key, without tokens. A prompt has the same bounds as a prompt to be answered.

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
        raw = await self._read(http)
        given = parse_object(raw)
        if (given.get("prompt") is None) == (given.get("messages") is None):
            raise RequestError(400, "send either `prompt` or `messages`", param="prompt")
        flags = {
            name: value
            for name in ("add_special_tokens", "add_generation_prompt")
            if (value := checked(given, name, FLAG)) is not None
        }
        if given.get("messages") is not None:
            chat = {name: given.get(name) for name in ("model", *_RENDERED)}
            request = await self._checked(http, Endpoint.CHAT, chat)
            return json_response(await self._client.post(request.task, _TOKENIZE, {**_rendered(request), **flags}))
        prompts = given["prompt"] if isinstance(given["prompt"], list) else [given["prompt"]]
        if not prompts or len(prompts) > _MAX_PROMPTS or not all(isinstance(prompt, str) for prompt in prompts):
            raise invalid("prompt", f"a string, or a list of 1 to {_MAX_PROMPTS} strings")
        task = self._task(http, given)
        replies = []
        for prompt in prompts:
            if prompt:
                await self._checked(http, Endpoint.COMPLETIONS, {"model": task, "prompt": prompt})
            replies.append(await self._client.post(task, _TOKENIZE, {"prompt": prompt, **flags}))
        if not isinstance(given["prompt"], list):
            return json_response(replies[0])
        lists = {name: [reply.get(name) for reply in replies] for name in ("tokens", "count")}
        return json_response({**replies[0], **lists})

    async def detokenize(self, http: web.Request) -> web.Response:
        """POST /detokenize: the text of `tokens`, a list of token ids or a list of such lists."""
        given = parse_object(await self._read(http))
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
        for ids in lists:
            self._check_ids(ids, task)
        texts = [
            (await self._client.post(task, _DETOKENIZE, {"tokens": ids, **flags})).get("text") if ids else ""
            for ids in lists
        ]
        return json_response({"text": texts if several else texts[0]})

    async def count(self, http: web.Request) -> web.Response:
        """POST /v1/messages/count_tokens: the number of tokens of an Anthropic request."""
        raw = await self._read(http)
        request = await self._checked(http, Endpoint.CHAT, raw, lambda body: MessageTranslation(body, counts=True))
        return json_response({"input_tokens": await self._client.count(request.task, _rendered(request))})

    async def _read(self, http: web.Request) -> bytes:
        require_json(http)
        if (key := current_key.get()) is not None:
            key.charge(0, self._now())
        return await http.read()

    async def _checked(
        self,
        http: web.Request,
        endpoint: Endpoint,
        body: Mapping[str, Any] | bytes,
        translate: Translate | None = None,
    ) -> Request:
        """Return a request that a worker would answer, so that its prompt is within the bounds."""
        request = parse_request(
            endpoint,
            body if isinstance(body, bytes) else orjson.dumps(body),
            header_task=http.headers.get(TASK_HEADER),
            tasks=visible_tasks(self._registry.task_names),
            allowed=self._allowed,
            translate=translate,
        )
        await self._check_length(request, split_request(request))
        return request

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


def _rendered(request: Request) -> dict[str, Any]:
    return {name: request.body[name] for name in _RENDERED if name in request.body}
