"""The replies of the fake worker: SGLang's shapes, from the emulator's builder, with made-up tokens."""

from __future__ import annotations

from collections.abc import Callable
from secrets import token_hex
from typing import Any

import orjson

from sun_sglang.emulator.protocol.replies import Progress, ReplyBuilder, completion_logprobs, sse_event
from sun_sglang.emulator.protocol.reply_shapes import SHAPES
from sun_sglang.emulator.protocol.request import COMPLETIONS, GENERATE
from sun_sglang.sglang_versions import NEWEST_VERSION

_LOGPROB, _INPUT_LOGPROB = -0.5, -1.0
_BUILD = ReplyBuilder(SHAPES[NEWEST_VERSION])


def spoken(tokens: list[int]) -> str:
    """Return tokens as text."""
    return "".join(f" {t}" for t in tokens)


def prompt_of(path: str, body: dict[str, Any]) -> list[int]:
    if path == GENERATE:
        prompt = body["input_ids"] if body.get("input_ids") is not None else body["text"]
    elif path == COMPLETIONS:
        prompt = body["prompt"]
    else:
        prompt = body.get("input_ids") or orjson.dumps(body["messages"]).decode()
    assert isinstance(prompt, str) or all(isinstance(t, int) for t in prompt), "one prompt a request"
    return [ord(c) for c in prompt] if isinstance(prompt, str) else prompt


def wanted(path: str, body: dict[str, Any]) -> int:
    if path == GENERATE:
        params = body.get("sampling_params") or {}
        assert params.get("n", 1) == 1
        return int(params.get("max_new_tokens", 4))
    assert body.get("n", 1) == 1
    return int(body.get("max_tokens") or body.get("max_completion_tokens") or 4)


class FakeReplies:
    """The replies to one request.

    Args:
        path: endpoint of the request.
        body: body of the request.
        ids: its prompt.
        cached: prompt tokens found in the cache.
        computes_prompt: whether the worker reports log probabilities of the prompt.
        makes_first: whether the worker made the first token itself.
        counted: tokens of the prompt as the worker counts them; None for all.
        input_logprob: returns the log probability of the prompt token at a place.
    """

    def __init__(
        self,
        path: str,
        body: dict[str, Any],
        ids: list[int],
        cached: int,
        *,
        computes_prompt: bool = False,
        makes_first: bool = False,
        counted: int | None = None,
        input_logprob: Callable[[int], float] = lambda _: _INPUT_LOGPROB,
    ) -> None:
        self._path = path
        self._body = body
        self._ids = ids
        self._cached = cached
        self._computes_prompt = computes_prompt
        self._input_logprob = input_logprob
        self._makes_first = makes_first or computes_prompt
        self._counted = len(ids) if counted is None else counted

    def whole(self, made: list[int], finish: dict[str, Any]) -> dict[str, Any]:
        progress = self._progress(made, finish)
        if self._path == GENERATE:
            return _BUILD.generate(progress, logprobs=self._generate_logprobs(made))
        if self._path == COMPLETIONS:
            text = (self._body["prompt"] if self._body.get("echo") else "") + progress.text
            return _BUILD.completion(progress, text=text, logprobs=self._completion_logprobs(made, with_input=True))
        return _BUILD.chat(progress)

    def events(self, made: list[int], start: int, finish: dict[str, Any] | None) -> bytes:
        """Return the events for the tokens from `start` on."""
        progress = self._progress(made, finish)
        text = spoken(made[start:])
        if self._path == GENERATE:
            return sse_event(_BUILD.generate(progress, logprobs=self._generate_logprobs(made)))
        if self._path == COMPLETIONS:
            logprobs = self._completion_logprobs(made[start:], with_input=False)
            return _BUILD.completion_event(progress, text=text, logprobs=logprobs)
        if self._body.get("tools"):
            return self._call_events(progress, text, first=start == 0)
        return b"".join(_BUILD.chat_events(progress, text=text, first=start == 0))

    def _call_events(self, progress: Progress, arguments: str, *, first: bool) -> bytes:
        """Return the events of a call to the first tool, whose id is random; the text is its arguments."""
        name = self._body["tools"][0]["function"]["name"]
        named = {"id": progress.request_id, "object": "chat.completion.chunk", "created": 1, "model": progress.model}
        events = _BUILD.chat_events(progress, text="", first=first)
        calls = [{"id": None, "index": 0, "type": "function", "function": {"name": None, "arguments": arguments}}]
        if first:
            begun = {"id": f"call_{token_hex(8)}", "function": {"name": name, "arguments": ""}}
            calls.insert(0, {**calls[0], **begun})
        for call in calls:
            choice = {"index": 0, "delta": {"tool_calls": [call]}, "logprobs": None}
            choice |= {"finish_reason": None, "matched_stop": None}
            events.insert(int(first) + calls.index(call), sse_event({**named, "choices": [choice]}))
        return b"".join(events)

    def usage_event(self, made: list[int]) -> bytes:
        """Return the usage event, if the request asks for one."""
        if not (self._body.get("stream_options") or {}).get("include_usage"):
            return b""
        match self._path:
            case "/v1/completions":
                return _BUILD.completion_usage_event(self._progress(made, None))
            case "/v1/chat/completions":
                return _BUILD.chat_usage_event(self._progress(made, None))
        return b""

    def _progress(self, made: list[int], finish: dict[str, Any] | None) -> Progress:
        return Progress(
            request_id=self._body["rid"],
            prompt_tokens=self._counted,
            tokens=made,
            text=spoken(made),
            finish=finish,
            cached_tokens=self._cached,
            model=self._body.get("model", ""),
            created=1,
        )

    def _generate_logprobs(self, made: list[int]) -> dict[str, Any]:
        if not self._body.get("return_logprob"):
            return {}
        start = self._body.get("logprob_start_len", -1)
        prompt = self._ids[start:] if self._computes_prompt and start >= 0 else []
        columns: dict[str, Any] = {
            "input_token_logprobs": [[self._input_logprob(place), t, None] for place, t in enumerate(prompt)],
            "input_top_logprobs": [],
            "output_token_logprobs": [[_LOGPROB, t, None] for t in made],
        }
        if chosen := self._body.get("token_ids_logprob"):
            rows: list[Any] = [[[-float(place), t, None] for t in chosen] for place, _ in enumerate(made)]
            if rows and not self._makes_first:
                # a KV transfer does not carry those of the first token
                rows[0] = None
            columns["output_token_ids_logprobs"] = rows
        return columns

    def _completion_logprobs(self, made: list[int], *, with_input: bool) -> dict[str, Any] | None:
        count = self._body.get("logprobs")
        if count is None:
            return None
        echoes = with_input and self._computes_prompt and self._body.get("echo") and count
        tokens = [*(f"in{t}" for t in (self._ids if echoes else ())), *(f"out{t}" for t in made)]
        return completion_logprobs(tokens, [_LOGPROB] * len(tokens), [{t: _LOGPROB} for t in tokens])
