"""`POST /sun/tokens` of an SGLang worker: how many tokens a prompt has, counted off the server's event loop.

SGLang's own `/tokenize` runs on the event loop and returns every id: a prompt of 1 MB keeps the server from answering
anybody for seconds. Here a thread counts, with a copy of the tokenizer that does not hold the GIL.
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
from sun_sglang.worker.token_count import CountingTokenizer, private_count


class PromptCounter:
    """Counts prompts one after another.

    Args:
        app: SGLang's FastAPI application (`entrypoints/http_server.py`).
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sun-tokens")
        self._count: Callable[[str], int] | None = None

    async def handle(self, request: Any) -> Any:
        """Answer a request: the body is one of SGLang's `/tokenize`, and `most` in the query is the limit in tokens."""
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

        asked = TokenizeRequest.model_validate(json.loads(raw))
        tokenizer = serving.tokenizer_manager.tokenizer
        if self._count is None:
            self._count = private_count(tokenizer)
        counting = CountingTokenizer(tokenizer, self._count, most)
        if asked.messages is None:
            ids = counting.encode(str(asked.prompt), add_special_tokens=asked.add_special_tokens)
        else:
            ids = _render(serving, counting, asked)
        return TokenCount(len(ids), counting.exact)


def token_bytes_of(tokenizer: Any) -> int | None:
    """Return the most bytes that one token of a running server's tokenizer may cover; None where there is no bound."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return max_token_bytes(json.loads(backend.to_str())) if backend is not None else None


def _render(serving: Any, counting: CountingTokenizer, asked: Any) -> list[int]:
    """Make a prompt of a chat as the server does, with a tokenizer that only counts."""
    manager = _Manager(serving.tokenizer_manager, counting)
    chat = copy.copy(serving.chat_serving)
    chat.tokenizer_manager = manager
    # the server's own cache must not get the ids that were only counted
    chat._chat_template_cache = OrderedDict()
    mine = copy.copy(serving)
    mine.tokenizer_manager, mine.chat_serving = manager, chat
    ids: list[int] = mine._tokenize_chat_request(asked)
    return ids


class _Manager:
    """SGLang's tokenizer manager with another tokenizer."""

    def __init__(self, manager: Any, tokenizer: CountingTokenizer) -> None:
        self.tokenizer = tokenizer
        self._manager = manager

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)
