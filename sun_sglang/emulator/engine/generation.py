"""An answer under way: what was asked, what has been said, and how it ended. No I/O but an event to wait on."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from sun_sglang.emulator.protocol.errors import FailedError
from sun_sglang.emulator.protocol.fake_tokens import text_of, token_text
from sun_sglang.emulator.protocol.request import GenerationRequest


@dataclass(eq=False, slots=True)
class Generation:
    """One answer.

    Attributes:
        ask: what was asked.
        tokens: said so far.
        text: the same, as text.
        cached: prompt tokens that were found cached.
        retractions: how often it lost its KV.
        finish: SGLang's finish reason, once it is over.
        failure: why it failed, if it did; what is answered outside of a stream.
        has_input_logprobs: this worker computed the prompt.
        handed_over: its first token came from another worker.
        began: monotonic seconds.
        created: seconds since the epoch.
    """

    ask: GenerationRequest
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    cached: int = 0
    retractions: int = 0
    finish: dict[str, Any] | None = None
    failure: FailedError | None = None
    has_input_logprobs: bool = False
    handed_over: bool = False
    began: float = field(default_factory=time.monotonic)
    created: int = field(default_factory=lambda: int(time.time()))
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def say(self, token: int) -> bool:
        """Add a token. Returns whether it, or the text it ends, is a stop."""
        self.tokens.append(token)
        self.text += token_text(token)
        self._news.set()
        if token in self.ask.stop_ids:
            self.end({"type": "stop", "matched": token})
            if not self.ask.keep_stop:
                self.text = text_of(self.tokens[:-1])
            return True
        for stop in self.ask.stop:
            at = self.text.find(stop)
            if at >= 0:
                self.text = self.text if self.ask.keep_stop else self.text[:at]
                self.end({"type": "stop", "matched": stop})
                return True
        return False

    def end(self, finish: dict[str, Any]) -> None:
        """It is over; what is said about it later does not count."""
        if self.finish is None:
            self.finish = finish
            self._news.set()

    def fail(self, message: str, status: int = 500) -> None:
        """It is over and was not finished."""
        if self.finish is None:
            self.failure = FailedError(message, status)
            self.end({"type": "abort", "message": message, "status_code": status, "err_type": None})

    def abort(self) -> None:
        """It was aborted while it ran, which is an answer."""
        self.end({"type": "abort", "message": "Aborted", "status_code": None, "err_type": None})

    async def news(self) -> None:
        """Wait until something was said or it ended."""
        if self.finish is None:
            await self._news.wait()
        self._news.clear()

    async def ended(self) -> None:
        """Wait until it is over."""
        while self.finish is None:
            await self.news()
