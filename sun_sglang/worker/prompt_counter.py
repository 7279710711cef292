"""`POST /sun/tokens` of an SGLang worker: the token count of a prompt, computed off the server's event loop.

SGLang's `/tokenize` runs on the event loop and returns every id: with a prompt of 1 MB the server answers no other
request for seconds. Here a thread counts, with a copy of the tokenizer that releases the GIL.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sun_sglang.contracts.token_count import TokenCount
from sun_sglang.worker.token_bytes import max_token_bytes
from sun_sglang.worker.token_count import CountingTokenizer, make_counter


class PromptCounter:
    """Counts the tokens of one prompt at a time.

    Args:
        app: SGLang's FastAPI application (`entrypoints/http_server.py`).
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sun-tokens")
        self._count: Callable[[str], int] | None = None

    async def handle(self, request: Any) -> Any:
        """Answer a request. Its body is one of SGLang's `/tokenize`, and `most` in the query is the limit in tokens."""
        from fastapi import Response

        raw = await request.body()
        serving = self._app.state.openai_serving_tokenize
        try:
            most = int(request.query_params["most"])
            found = await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, serving, raw, most)
        except (KeyError, ValueError) as e:
            return serving.create_error_response(str(e))
        return Response(json.dumps(found._asdict()), media_type="application/json")

    def _answer(self, serving: Any, raw: bytes, most: int) -> TokenCount:
        from sglang.srt.entrypoints.openai.protocol import TokenizeRequest

        body = TokenizeRequest.model_validate(json.loads(raw))
        tokenizer = serving.tokenizer_manager.tokenizer
        if self._count is None:
            self._count = make_counter(tokenizer)
        counting = CountingTokenizer(tokenizer, self._count, most)
        if body.messages is None:
            ids = counting.encode(str(body.prompt), add_special_tokens=body.add_special_tokens)
        else:
            ids = _render(serving, counting, body)
        return TokenCount(len(ids), counting.exact)


def token_bytes_of(tokenizer: Any) -> int | None:
    """Return the most bytes of text per token of a running server's tokenizer; None if there is no bound."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return max_token_bytes(json.loads(backend.to_str())) if backend is not None else None


def _render(serving: Any, counting: CountingTokenizer, body: Any) -> list[int]:
    """Render a chat as the server does, with a tokenizer that only counts."""
    manager = _Manager(serving.tokenizer_manager, counting)
    chat = copy.copy(serving.chat_serving)
    chat.tokenizer_manager = manager
    # the counted ids are zeros and must not reach the server's cache
    chat._chat_template_cache = OrderedDict()
    counting_serving = copy.copy(serving)
    counting_serving.tokenizer_manager, counting_serving.chat_serving = manager, chat
    ids: list[int] = counting_serving._tokenize_chat_request(body)
    return ids


class _Manager:
    """SGLang's tokenizer manager with another tokenizer."""

    def __init__(self, manager: Any, tokenizer: CountingTokenizer) -> None:
        self.tokenizer = tokenizer
        self._manager = manager

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)
