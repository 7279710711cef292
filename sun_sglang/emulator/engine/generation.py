"""The state of one generation: the request, the tokens so far, and how it finished. No I/O but an event to wait for."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from sun_sglang.emulator.engine.adapters import LoadedAdapter
from sun_sglang.emulator.protocol.errors import GenerationFailedError
from sun_sglang.emulator.protocol.fake_tokens import text_of, token_text
from sun_sglang.emulator.protocol.request import GenerationRequest


@dataclass(eq=False, slots=True)
class Generation:
    """One generation.

    Attributes:
        request: the request.
        adapter: its LoRA adapter on this worker; None for none.
        weights: revision of the module that computes its prompt; empty for the worker's own model.
        tokens: ids of the tokens generated so far.
        text: their text.
        cached: prompt tokens that the prefill worker found in its cache.
        reused: prompt tokens that the decode worker found in its cache, so that their KV was not sent.
        retractions: how often the request lost its KV.
        finish: SGLang's finish reason; None while the generation runs.
        failure: the error reply outside of a stream; None if the generation did not fail.
        input_logprobs: log probability of each prompt token, None for the first; empty where this worker computes none.
        first_token_transferred: whether another worker made the first token.
        prompt_tokens: tokens of the prompt as this worker counts them.
        started_at: monotonic seconds.
        created: seconds since the epoch.
    """

    request: GenerationRequest
    adapter: LoadedAdapter | None = None
    weights: str = ""
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    cached: int = 0
    reused: int = 0
    retractions: int = 0
    finish: dict[str, Any] | None = None
    failure: GenerationFailedError | None = None
    input_logprobs: tuple[float | None, ...] = ()
    first_token_transferred: bool = False
    prompt_tokens: int = 0
    started_at: float = field(default_factory=time.monotonic)
    created: int = field(default_factory=lambda: int(time.time()))
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.prompt_tokens = self.prompt_tokens or len(self.request.prompt)

    @property
    def namespace(self) -> str:
        """Namespace of its KV in this worker's cache: a load of an adapter has its own, as in SGLang."""
        return self.request.namespace + (self.adapter.load_id if self.adapter else "")

    def append(self, token: int) -> bool:
        """Add a token, and finish if it, or the text that it completes, is a stop. Return whether it is."""
        self.tokens.append(token)
        self.text += token_text(token)
        self._changed.set()
        if token in self.request.stop_ids:
            self.end({"type": "stop", "matched": token})
            if not self.request.keep_stop:
                self.text = text_of(self.tokens[:-1])
            return True
        for stop in self.request.stop:
            at = self.text.find(stop)
            if at >= 0:
                self.text = self.text if self.request.keep_stop else self.text[:at]
                self.end({"type": "stop", "matched": stop})
                return True
        return False

    def end(self, finish: dict[str, Any]) -> None:
        """Finish with a finish reason; a second call has no effect."""
        if self.finish is None:
            self.finish = finish
            self._changed.set()

    def fail(self, message: str, status: int = 500) -> None:
        """Finish with a failure.

        Args:
            message: SGLang's message.
            status: HTTP status of the reply.
        """
        if self.finish is None:
            self.failure = GenerationFailedError(message, status)
            self.end({"type": "abort", "message": message, "status_code": status, "err_type": None})

    def abort(self) -> None:
        """Finish with an abort of a running generation, which SGLang answers with status 200."""
        self.end({"type": "abort", "message": "Aborted", "status_code": None, "err_type": None})

    async def wait_change(self) -> None:
        """Wait until a token was added or the generation finished."""
        if self.finish is None:
            await self._changed.wait()
        self._changed.clear()

    async def wait_finish(self) -> None:
        """Wait until the generation has finished."""
        while self.finish is None:
            await self.wait_change()
