"""Read the mark of a replay, pass its tokens on to the scheduler, and report the tokens of a stream.

SGLang's chat completions cannot stream token ids (`entrypoints/openai/serving_chat.py` refuses
`return_token_ids` for a stream), and its parsers may hold text back. The tokens are taken where every endpoint receives
them, and leave the server as a comment line before the next event.

The tokens of a replay travel to every rank in `sampling_params.custom_params`, which SGLang keeps with the request. A
client cannot set the field: the router refuses it (`router/protocol/fields/table.py`).
"""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any

from sun_sglang.contracts.replay import HOOK, read_replay, require_known, tokens_comment
from sun_sglang.patches.patch import Patch
from sun_sglang.patches.versions import on

REMOVABLE_WHEN = "when SGLang's decode worker can begin with output tokens that are given"
"""When the hooks of this folder can be removed, each of them."""

TOKENS_KEY = "sun_forced_tokens"
_STREAMS = frozenset(("/generate", "/v1/completions", "/v1/chat/completions"))
# the tokens of the HTTP request that runs which no event has reported yet; None outside of one
_unreported: ContextVar[list[int] | None] = ContextVar("unreported", default=None)


class TokenReports:
    """ASGI middleware that puts the comment line with new tokens before each event of a stream that reports them.

    Args:
        app: the application behind it.
    """

    def __init__(self, app: Callable[..., Any]) -> None:
        self._app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Callable[[dict[str, Any]], Any]) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] not in _STREAMS:
            await self._app(scope, receive, send)
            return
        tokens: list[int] = []

        async def report(message: dict[str, Any]) -> None:
            if tokens and message.get("body"):
                message["body"] = tokens_comment(tokens) + message["body"]
                tokens.clear()
            await send(message)

        before = _unreported.set(tokens)
        try:
            await self._app(scope, receive, report)
        finally:
            _unreported.reset(before)


def read_tokens(
    generate: Callable[..., AsyncIterator[dict[str, Any]]], manager: Any, obj: Any, request: Any = None
) -> AsyncIterator[dict[str, Any]]:
    """Take the mark off a request, and return its results; their tokens are noted for the report.

    Args:
        generate: SGLang's `TokenizerManager.generate_request`.
        manager: the `TokenizerManager`.
        obj: SGLang's `GenerateReqInput`, or a request of another kind.
        request: SGLang's HTTP request.

    Raises:
        ValueError: SGLang answers 400 with the message: the tokens of the mark cannot be repeated.
    """
    replay = read_replay(getattr(obj, "extra_key", None))
    if replay.tokens is None:
        return generate(manager, obj, request)
    obj.extra_key = replay.extra_key
    if replay.tokens:
        if manager.server_args.speculative_algorithm is not None:
            raise ValueError("a worker with speculative decoding cannot repeat tokens")
        obj.sampling_params = with_tokens(obj.sampling_params, replay.tokens, manager.model_config.vocab_size)
    results = generate(manager, obj, request)
    unreported = _unreported.get()
    if unreported is None or not obj.stream:
        return results
    return note_tokens(results, unreported, incremental=manager.incremental_streaming_output)


def with_tokens(params: Any, tokens: array[int], vocab_size: int) -> dict[str, Any]:
    """Return sampling parameters with the tokens to repeat.

    Args:
        params: those of the request; None for none.
        tokens: the tokens.
        vocab_size: of the model.

    Raises:
        ValueError: the request has several prompts, or the model does not have a token.
    """
    if not isinstance(params, dict | None):
        raise ValueError("only a request with one prompt can repeat tokens")
    require_known(tokens, vocab_size)
    given = params or {}
    return {**given, "custom_params": {**(given.get("custom_params") or {}), TOKENS_KEY: tokens.tolist()}}


async def note_tokens(
    results: AsyncIterator[dict[str, Any]], unreported: list[int], *, incremental: bool
) -> AsyncIterator[dict[str, Any]]:
    """Yield the results of a stream, and add the new tokens of each to `unreported` before.

    SGLang's `TokenizerManager._handle_batch_output` makes the results.

    Args:
        results: with `output_ids`.
        unreported: receives the tokens.
        incremental: each result has its own tokens only, and not those of all before it.
    """
    seen = 0
    async for result in results:
        ids = result.get("output_ids") or ()
        unreported += ids if incremental else ids[seen:]
        seen = max(seen, len(ids))
        yield result


PATCH = Patch(
    name=HOOK,
    target="sglang.srt.managers.tokenizer_manager.TokenizerManager.generate_request",
    parameters=(("self", "obj", "request"),),
    kind="around",
    hook=read_tokens,
    why="an answer whose decode worker is lost could not go on elsewhere, and the mark would divide the caches",
    versions=on("reads the mark of a replay, and reports the tokens of streams"),
    removable_when=REMOVABLE_WHEN,
)
