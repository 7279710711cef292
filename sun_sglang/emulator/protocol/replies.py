"""SGLang's replies and stream events, built from plain values. Pure.

The emulated worker, the router tests' fake worker and the benchmark's null worker build their replies here.
`tests/engine/test_emulated.py` compares the emulated worker's replies with those of SGLang.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import orjson

from sun_sglang.emulator.protocol.reply_shapes import ReplyShapes

FinishReason = Mapping[str, Any]
"""SGLang's object, such as `{"type": "length", "length": 4}` or `{"type": "stop", "matched": "x"}`."""

DONE = b"data: [DONE]\n\n"
_WEIGHT_VERSION = "default"
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def sse_event(data: object) -> bytes:
    """Return one server-sent event."""
    return b"data: " + orjson.dumps(data) + b"\n\n"


def completion_logprobs(
    tokens: Sequence[str], values: Sequence[float | None], top: Sequence[Mapping[str, float] | None]
) -> dict[str, Any]:
    """Return the log probabilities of a `/v1/completions` choice.

    Args:
        tokens: the tokens as text.
        values: the log probability of each token; None where it has none.
        top: the most likely tokens at each position; empty if the request does not ask for them.
    """
    return {
        "text_offset": [-1] * len(tokens),
        "token_logprobs": list(values),
        "tokens": list(tokens),
        "top_logprobs": list(top),
    }


@dataclass(frozen=True, slots=True)
class Progress:
    """The state of one generation when a reply or an event is built.

    Attributes:
        request_id: id of the request.
        prompt_tokens: tokens of the prompt.
        tokens: ids of the tokens generated so far.
        text: the text generated so far.
        finish: the finish reason; None while the generation runs.
        cached_tokens: prompt tokens that the prefill worker found in its cache.
        reused_tokens: prompt tokens that the decode worker found in its cache.
        retractions: how often the request lost its KV.
        model: the model's name in the reply.
        created: seconds since the epoch.
    """

    request_id: str
    prompt_tokens: int
    tokens: Sequence[int]
    text: str
    finish: FinishReason | None
    cached_tokens: int = 0
    reused_tokens: int = 0
    retractions: int = 0
    model: str = ""
    created: int = 0


class ReplyBuilder:
    """Builds the replies of one SGLang version.

    Args:
        shapes: the version's replies where versions differ.
    """

    def __init__(self, shapes: ReplyShapes) -> None:
        self._shapes = shapes

    # --- /generate --------------------------------------------------------------------------------------------------

    def generate(
        self,
        progress: Progress,
        *,
        logprobs: Mapping[str, Any] = _NOTHING,
        elapsed_s: float | None = None,
        sent_at: float | None = None,
    ) -> dict[str, Any]:
        """Return a reply of `/generate`, or one event's data; both hold the text and the ids from the first token on.

        Args:
            progress: the generation.
            logprobs: the keys of `meta_info` with log probabilities.
            elapsed_s: seconds since the request arrived; reported once the generation has finished.
            sent_at: seconds since the epoch; None where SGLang reports no time of sending.
        """
        cached = progress.cached_tokens
        meta: dict[str, Any] = {
            "id": progress.request_id,
            "finish_reason": progress.finish,
            "prompt_tokens": progress.prompt_tokens,
            "weight_version": _WEIGHT_VERSION,
            "num_retractions": progress.retractions,
            **logprobs,
            "reasoning_tokens": 0,
            "completion_tokens": len(progress.tokens),
            "cached_tokens": cached,
            "cached_tokens_details": _cache_details(progress),
            "dp_rank": None,
        }
        if progress.finish is not None:
            meta |= {"weight_versions": _weight_versions(progress), "e2e_latency": elapsed_s}
        if sent_at is not None:
            meta["response_sent_to_client_ts"] = sent_at
        return {"text": progress.text, "output_ids": list(progress.tokens), "meta_info": meta}

    # --- /v1/completions --------------------------------------------------------------------------------------------

    def completion(
        self,
        progress: Progress,
        *,
        text: str,
        logprobs: Mapping[str, Any] | None = None,
        token_ids: Mapping[str, Any] = _NOTHING,
    ) -> dict[str, Any]:
        """Return a whole reply.

        Args:
            progress: the generation.
            text: the reply's text, with the prompt before it if the request asks for an echo.
            logprobs: the result of `completion_logprobs`; None if the request does not ask for them.
            token_ids: the keys `token_ids` and `prompt_token_ids`, if the request asks for them.
        """
        choice = {"index": 0, "text": text, "logprobs": logprobs, **_finish(progress.finish), **token_ids}
        return self._whole(progress, "text_completion", choice)

    def completion_event(
        self,
        progress: Progress,
        *,
        text: str,
        logprobs: Mapping[str, Any] | None = None,
        token_ids: Mapping[str, Any] = _NOTHING,
        with_usage: bool = False,
    ) -> bytes:
        """Return one event of a stream.

        Args:
            progress: the generation.
            text: the text since the last event.
            logprobs: those of the tokens since the last event.
            token_ids: as for `completion`.
            with_usage: whether every event of the stream carries usage.
        """
        choice = {"index": 0, "text": text, "logprobs": logprobs, **_finish(progress.finish), **token_ids}
        counted = self.usage(progress, with_cached=False) if with_usage else None
        return sse_event({**_named(progress, "text_completion"), "choices": [choice], "usage": counted})

    def completion_usage_event(self, progress: Progress) -> bytes:
        """Return the usage event that ends a stream; unlike a chat's, it leaves out keys whose value is null."""
        counted = {key: value for key, value in self.usage(progress).items() if value is not None}
        return sse_event({**_named(progress, "text_completion"), "choices": [], "usage": counted})

    # --- /v1/chat/completions ---------------------------------------------------------------------------------------

    def chat(self, progress: Progress, *, logprobs: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return a whole reply."""
        message: dict[str, Any] = {"role": "assistant", "content": progress.text, "reasoning_content": None}
        if self._shapes.null_tool_calls:
            message["tool_calls"] = None
        choice = {"index": 0, "message": message, "logprobs": logprobs, **_finish(progress.finish)}
        return self._whole(progress, "chat.completion", choice)

    def chat_events(
        self,
        progress: Progress,
        *,
        text: str,
        first: bool,
        logprobs: Mapping[str, Any] | None = None,
        with_usage: bool = False,
    ) -> list[bytes]:
        """Return the events since the last call: the role first, then the text, and the finish reason last.

        Args:
            progress: the generation.
            text: the text since the last call.
            first: whether no event was sent before.
            logprobs: those of the tokens since the last call.
            with_usage: whether every event of the stream carries usage.
        """
        events = []
        if first:
            events.append(_chat_event(progress, {"reasoning_content": None, "role": "assistant", "content": ""}))
        if text:
            counted = {"usage": self.usage(progress)} if with_usage else _NOTHING
            events.append(_chat_event(progress, {"reasoning_content": None, "content": text}, logprobs, extra=counted))
        if progress.finish is not None:
            events.append(_chat_event(progress, {"reasoning_content": None}, finish=progress.finish))
        return events

    def chat_usage_event(self, progress: Progress) -> bytes:
        """Return the usage event that ends a stream."""
        named = _named(progress, "chat.completion.chunk")
        return sse_event({**named, "choices": [], "usage": self.usage(progress)})

    # --- both -------------------------------------------------------------------------------------------------------

    def usage(self, progress: Progress, *, with_cached: bool = True) -> dict[str, Any]:
        """Return the token counts under OpenAI's names; `with_cached` reports cached tokens too."""
        made, cached = len(progress.tokens), progress.cached_tokens
        reported = with_cached and (cached or self._shapes.zero_cached_tokens)
        counted: dict[str, Any] = {
            "prompt_tokens": progress.prompt_tokens,
            "total_tokens": progress.prompt_tokens + made,
            "completion_tokens": made,
            "prompt_tokens_details": {"cached_tokens": cached} if reported else None,
            "reasoning_tokens": 0,
        }
        if self._shapes.completion_details:
            counted["completion_tokens_details"] = None
        return counted

    def _whole(self, progress: Progress, kind: str, choice: Mapping[str, Any]) -> dict[str, Any]:
        return {
            **_named(progress, kind),
            "choices": [choice],
            "usage": self.usage(progress),
            "metadata": {"weight_version": _WEIGHT_VERSION, "weight_versions": _weight_versions(progress)},
        }


def _named(progress: Progress, kind: str) -> dict[str, Any]:
    return {"id": progress.request_id, "object": kind, "created": progress.created, "model": progress.model}


def _finish(finish: FinishReason | None) -> dict[str, Any]:
    if finish is None:
        return {"finish_reason": None, "matched_stop": None}
    return {"finish_reason": finish["type"], "matched_stop": finish.get("matched")}


def _cache_details(progress: Progress) -> dict[str, int] | None:
    cached, reused = progress.cached_tokens, progress.reused_tokens
    if not (cached or reused):
        return None
    # the entry `decode` is of `patches/cache/prefill_hits.py`
    return {"device": cached, "host": 0, **({"decode": reused} if reused else _NOTHING)}


def _weight_versions(progress: Progress) -> list[dict[str, Any]]:
    return [{"version": _WEIGHT_VERSION, "start": 0, "end": len(progress.tokens)}]


def _chat_event(
    progress: Progress,
    delta: Mapping[str, Any],
    logprobs: Mapping[str, Any] | None = None,
    *,
    finish: FinishReason | None = None,
    extra: Mapping[str, Any] = _NOTHING,
) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": logprobs, **_finish(finish)}
    return sse_event({**_named(progress, "chat.completion.chunk"), "choices": [choice], **extra})
