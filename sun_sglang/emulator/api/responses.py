"""The results and stream events of SGLang for an answer as far as it has come. Pure."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Any

import orjson

from sun_sglang.emulator.engine.generation import Generation
from sun_sglang.emulator.protocol.errors import flat_error
from sun_sglang.emulator.protocol.fake_tokens import logprob_of, token_at, token_text
from sun_sglang.emulator.protocol.request import COMPLETIONS, GENERATE, GenerationRequest
from sun_sglang.emulator.protocol.versions import ReplyShapes

DONE = b"data: [DONE]\n\n"
_VERSION = "default"


def event(data: object) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(data) + b"\n\n"


class Replies:
    """Writes the replies of one version of SGLang.

    Args:
        shapes: what that version replies where the versions differ.
    """

    def __init__(self, shapes: ReplyShapes) -> None:
        self._shapes = shapes

    def result(self, answer: Generation) -> dict[str, Any]:
        """A whole answer, outside of a stream."""
        ask = answer.ask
        if ask.endpoint == GENERATE:
            return self.native(answer, final=True)
        finish = answer.finish
        assert finish is not None
        choice: dict[str, Any] = {"index": 0}
        if ask.endpoint == COMPLETIONS:
            choice["text"] = (ask.text if ask.echo else "") + answer.text
            choice["logprobs"] = _column_logprobs(answer, 0, with_input=ask.echo)
        else:
            choice["message"] = {"role": "assistant", "content": answer.text, "reasoning_content": None}
            if self._shapes.null_tool_calls:
                choice["message"]["tool_calls"] = None
            choice["logprobs"] = _item_logprobs(answer, 0)
        choice |= {"finish_reason": finish["type"], "matched_stop": finish.get("matched")}
        if ask.token_ids:
            choice |= {"token_ids": answer.tokens, "prompt_token_ids": list(ask.prompt)}
        return {
            **_named(answer, "text_completion" if ask.endpoint == COMPLETIONS else "chat.completion"),
            "choices": [choice],
            "usage": self.usage(answer),
            "metadata": {"weight_version": _VERSION, "weight_versions": _versions(answer)},
        }

    def native(self, answer: Generation, *, final: bool, first: bool = False) -> dict[str, Any]:
        """A result of /generate, or an event of its stream: text and ids are those of the whole answer so far."""
        meta: dict[str, Any] = {
            "id": answer.ask.rid,
            "finish_reason": answer.finish if final else None,
            "prompt_tokens": len(answer.ask.prompt),
            "weight_version": _VERSION,
            "num_retractions": answer.retractions,
        }
        meta |= self._native_logprobs(answer)
        meta |= {
            "reasoning_tokens": 0,
            "completion_tokens": len(answer.tokens),
            "cached_tokens": answer.cached,
            "cached_tokens_details": {"device": answer.cached, "host": 0} if answer.cached else None,
            "dp_rank": None,
        }
        if final:
            meta |= {"weight_versions": _versions(answer), "e2e_latency": time.monotonic() - answer.began}
        if first or (final and not answer.ask.stream):
            meta["response_sent_to_client_ts"] = time.time()
        return {"text": answer.text, "output_ids": list(answer.tokens), "meta_info": meta}

    def chunks(self, answer: Generation, said: int, said_text: int) -> list[bytes]:
        """Events for what came since an answer had `said` tokens and `said_text` characters."""
        final, first = answer.finish is not None, said == 0
        if answer.ask.endpoint == GENERATE:
            return [event(self.native(answer, final=final, first=first))]
        if answer.failure is not None:
            name = HTTPStatus(answer.failure.status).name
            return [event({"error": flat_error(str(answer.failure), name, answer.failure.status)})]
        text = answer.text[said_text:]
        if answer.ask.endpoint == COMPLETIONS:
            return [self._completion_chunk(answer, text, said, first=first)]
        return self._chat_chunks(answer, text, said, first=first)

    def usage_chunk(self, answer: Generation) -> bytes:
        """The usage event that ends a stream; only the one of a completion leaves out what is null."""
        counted = self.usage(answer)
        if answer.ask.endpoint == COMPLETIONS:
            kind = "text_completion"
            counted = {k: v for k, v in counted.items() if v is not None}
        else:
            kind = "chat.completion.chunk"
        return event({**_named(answer, kind), "choices": [], "usage": counted})

    def usage(self, answer: Generation, *, cached: bool = True) -> dict[str, Any]:
        """Token counts, in OpenAI's names."""
        prompt, made = len(answer.ask.prompt), len(answer.tokens)
        reported = cached and (answer.cached or self._shapes.zero_cached_tokens)
        counted: dict[str, Any] = {
            "prompt_tokens": prompt,
            "total_tokens": prompt + made,
            "completion_tokens": made,
            "prompt_tokens_details": {"cached_tokens": answer.cached} if reported else None,
            "reasoning_tokens": 0,
        }
        if self._shapes.completion_details:
            counted["completion_tokens_details"] = None
        return counted

    def _completion_chunk(self, answer: Generation, text: str, said: int, *, first: bool) -> bytes:
        ask, finish = answer.ask, answer.finish
        choice: dict[str, Any] = {
            "index": 0,
            "text": (ask.text if ask.echo and first else "") + text,
            "logprobs": _column_logprobs(answer, said, with_input=ask.echo and first),
            "finish_reason": finish["type"] if finish else None,
            "matched_stop": finish.get("matched") if finish else None,
        }
        if ask.token_ids:
            choice["token_ids"] = answer.tokens[said:]
            if first:
                choice["prompt_token_ids"] = list(ask.prompt)
        counted = self.usage(answer, cached=False) if ask.usage_always else None
        return event({**_named(answer, "text_completion"), "choices": [choice], "usage": counted})

    def _chat_chunks(self, answer: Generation, text: str, said: int, *, first: bool) -> list[bytes]:
        events = []
        if first:
            events.append(self._chat_chunk(answer, {"reasoning_content": None, "role": "assistant", "content": ""}))
        if text:
            delta = {"reasoning_content": None, "content": text}
            counted = self.usage(answer) if answer.ask.usage_always else None
            events.append(self._chat_chunk(answer, delta, logprobs=_item_logprobs(answer, said), counted=counted))
        if answer.finish is not None:
            events.append(self._chat_chunk(answer, {"reasoning_content": None}, ended=True))
        return events

    def _chat_chunk(
        self,
        answer: Generation,
        delta: dict[str, Any],
        *,
        logprobs: dict[str, Any] | None = None,
        counted: dict[str, Any] | None = None,
        ended: bool = False,
    ) -> bytes:
        finish = answer.finish if ended else None
        choice = {
            "index": 0,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish["type"] if finish else None,
            "matched_stop": finish.get("matched") if finish else None,
        }
        chunk = {**_named(answer, "chat.completion.chunk"), "choices": [choice]}
        return event({**chunk, "usage": counted} if counted is not None else chunk)

    def _native_logprobs(self, answer: Generation) -> dict[str, Any]:
        wanted = answer.ask.logprobs
        if wanted is None:
            return {}
        prompt = answer.ask.prompt if answer.has_input_logprobs else ()
        output = [_entry(t, i, text=wanted.text) for i, t in enumerate(answer.tokens)]
        reported: dict[str, Any] = {
            "input_token_logprobs": [
                [None if i == 0 else logprob_of(t, i), t, token_text(t) if wanted.text else None]
                for i, t in enumerate(prompt)
                if i >= wanted.start
            ],
            "output_token_logprobs": output,
            "output_token_logprobs_length": len(output),
        }
        if wanted.top:
            reported["input_top_logprobs"] = [
                None if i == 0 else [_entry(t, i, text=wanted.text) for t in _top(answer.ask, token, i)]
                for i, token in enumerate(prompt)
                if i >= wanted.start
            ]
            reported["output_top_logprobs"] = [
                [_entry(t, i, text=wanted.text) for t in _top(answer.ask, token, i)]
                for i, token in enumerate(answer.tokens)
            ]
        if wanted.ids:
            rows: list[Any] = [
                [_entry(t, i, text=wanted.text) for t in wanted.ids] for i, _ in enumerate(answer.tokens)
            ]
            if answer.handed_over and rows:
                # a transfer of KV carries none of these for the first token
                rows[:1] = [None] if self._shapes.first_ids_row else []
            reported["input_token_ids_logprobs"] = []
            reported["output_token_ids_logprobs"] = rows
        return reported


def _named(answer: Generation, kind: str) -> dict[str, Any]:
    return {"id": answer.ask.rid, "object": kind, "created": answer.created, "model": answer.ask.model}


def _versions(answer: Generation) -> list[dict[str, Any]]:
    return [{"version": _VERSION, "start": 0, "end": len(answer.tokens)}]


def _top(ask: GenerationRequest, token: int, position: int) -> list[int]:
    """The most likely tokens at a position, the chosen one first."""
    assert ask.logprobs is not None
    return [token, *(token_at(token, position + i, 1 << 15) for i in range(1, ask.logprobs.top))][: ask.logprobs.top]


def _entry(token: int, position: int, *, text: bool) -> list[Any]:
    return [logprob_of(token, position), token, token_text(token) if text else None]


def _column_logprobs(answer: Generation, said: int, *, with_input: bool) -> dict[str, Any] | None:
    wanted = answer.ask.logprobs
    if wanted is None:
        return None
    prompt = answer.ask.prompt if with_input and answer.has_input_logprobs else ()
    placed = [(t, i, i == 0) for i, t in enumerate(prompt)]
    placed += [(t, i, False) for i, t in enumerate(answer.tokens) if i >= said]
    tops = [
        None if unknown else {token_text(t): logprob_of(t, i) for t in _top(answer.ask, token, i)}
        for token, i, unknown in placed
    ]
    return {
        "text_offset": [-1] * len(placed),
        "token_logprobs": [None if unknown else logprob_of(t, i) for t, i, unknown in placed],
        "tokens": [token_text(t) for t, _, _ in placed],
        "top_logprobs": tops if wanted.top else [],
    }


def _item_logprobs(answer: Generation, said: int) -> dict[str, Any] | None:
    if answer.ask.logprobs is None:
        return None
    return {"content": [_item(answer.ask, t, i) for i, t in enumerate(answer.tokens) if i >= said]}


def _item(ask: GenerationRequest, token: int, position: int) -> dict[str, Any]:
    tops = [_described(t, position) for t in _top(ask, token, position)]
    return {**_described(token, position), "top_logprobs": tops}


def _described(token: int, position: int) -> dict[str, Any]:
    said = token_text(token)
    return {"token": said, "bytes": list(said.encode()), "logprob": logprob_of(token, position)}
