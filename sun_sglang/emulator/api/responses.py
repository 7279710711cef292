"""The replies and stream events of an emulated worker for a generation. Pure."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Any

from sun_sglang.emulator.api.logprobs import chat_items, completion_columns, generate_columns
from sun_sglang.emulator.engine.generation import Generation
from sun_sglang.emulator.protocol.errors import flat_error
from sun_sglang.emulator.protocol.replies import DONE, Progress, ReplyBuilder, sse_event
from sun_sglang.emulator.protocol.reply_shapes import ReplyShapes
from sun_sglang.emulator.protocol.request import COMPLETIONS, GENERATE


class Responses:
    """Makes the replies of one SGLang version.

    Args:
        shapes: the version's replies where versions differ.
    """

    def __init__(self, shapes: ReplyShapes) -> None:
        self._build = ReplyBuilder(shapes)

    def whole(self, generation: Generation) -> dict[str, Any]:
        """Return the reply to a request that does not stream."""
        request, progress = generation.request, _progress(generation)
        assert progress.finish is not None, "a whole reply is made once the generation has finished"
        if request.endpoint == GENERATE:
            return self._generate(generation, first=False)
        if request.endpoint == COMPLETIONS:
            return self._build.completion(
                progress,
                text=(request.text if request.echo else "") + generation.text,
                logprobs=completion_columns(generation, 0, with_input=request.echo),
                token_ids=_token_ids(generation, 0, first=True),
            )
        return self._build.chat(progress, logprobs=chat_items(generation, 0))

    def events(self, generation: Generation, sent_tokens: int, sent_characters: int) -> list[bytes]:
        """Return the events since the last call.

        Args:
            generation: the generation.
            sent_tokens: tokens that earlier events carried.
            sent_characters: characters of text that earlier events carried.
        """
        request, first = generation.request, sent_tokens == 0
        if request.endpoint == GENERATE:
            return [sse_event(self._generate(generation, first=first))]
        if (failure := generation.failure) is not None:
            return [sse_event({"error": flat_error(str(failure), HTTPStatus(failure.status).name, failure.status)})]
        text, progress = generation.text[sent_characters:], _progress(generation)
        if request.endpoint == COMPLETIONS:
            echoes = request.echo and first
            event = self._build.completion_event(
                progress,
                text=(request.text if echoes else "") + text,
                logprobs=completion_columns(generation, sent_tokens, with_input=echoes),
                token_ids=_token_ids(generation, sent_tokens, first=first),
                with_usage=request.usage_in_every_event,
            )
            return [event]
        return self._build.chat_events(
            progress,
            text=text,
            first=first,
            logprobs=chat_items(generation, sent_tokens),
            with_usage=request.usage_in_every_event,
        )

    def last_events(self, generation: Generation) -> bytes:
        """Return the events that end a stream: the usage, if the request asks for it, and `[DONE]`."""
        request = generation.request
        if not request.usage or request.endpoint == GENERATE:
            return DONE
        if request.endpoint == COMPLETIONS:
            return self._build.completion_usage_event(_progress(generation)) + DONE
        # after an error a chat sends no usage, and a completion does
        if generation.failure is not None:
            return DONE
        return self._build.chat_usage_event(_progress(generation)) + DONE

    def _generate(self, generation: Generation, *, first: bool) -> dict[str, Any]:
        whole = generation.finish is not None and not generation.request.stream
        return self._build.generate(
            _progress(generation),
            logprobs=generate_columns(generation),
            elapsed_s=time.monotonic() - generation.started_at,
            sent_at=time.time() if first or whole else None,
        )


def _progress(generation: Generation) -> Progress:
    return Progress(
        request_id=generation.request.rid,
        prompt_tokens=generation.prompt_tokens,
        tokens=generation.tokens,
        text=generation.text,
        finish=generation.finish,
        cached_tokens=generation.cached,
        reused_tokens=generation.reused,
        retractions=generation.retractions,
        model=generation.request.model,
        created=generation.created,
    )


def _token_ids(generation: Generation, start: int, *, first: bool) -> dict[str, Any]:
    if not generation.request.token_ids:
        return {}
    ids: dict[str, Any] = {"token_ids": generation.tokens[start:]}
    return ids | {"prompt_token_ids": list(generation.request.prompt)} if first else ids
