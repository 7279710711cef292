"""A generation request as the emulated engines receive it. Pure data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

GENERATE, COMPLETIONS, CHAT = "/generate", "/v1/completions", "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class LogprobOptions:
    """The log probabilities that a reply carries.

    Attributes:
        start: first position of the prompt whose log probability is reported; -1 for none of the prompt.
        top: number of most likely tokens reported at each position.
        ids: token ids reported at each position.
        with_text: whether each entry carries its token's text.
    """

    start: int
    top: int
    ids: tuple[int, ...]
    with_text: bool


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One request.

    Attributes:
        endpoint: path of the endpoint that received it.
        rid: its id.
        model: the model's name in the reply.
        prompt: token ids.
        text: the prompt as text, for an echo.
        limit: most tokens to generate.
        stop: strings that end the generation.
        stop_ids: token ids that end the generation.
        keep_stop: whether the stop string stays in the text.
        stream: whether the reply is a stream of server-sent events.
        usage: whether a usage event ends the stream.
        usage_in_every_event: whether every event carries usage.
        logprobs: None if the request asks for none.
        echo: whether the text begins with the prompt.
        token_ids: whether the reply carries token ids.
        namespace: cache namespace.
        host: host of the prefill worker's bootstrap server.
        port: port of the prefill worker's bootstrap server.
        room: the room of the two legs; None for a request that is not disaggregated.
        decode_first: whether the decode worker makes the first token (`contracts/first_token.py`).
        adapter: name of the LoRA adapter; None for none.
        module: revision of the module that its namespace names; None for the worker's own model.
        repeated: the first output tokens, where they are given; None if the request does not report its tokens
            (`contracts/replay.py`).
    """

    endpoint: str
    rid: str
    model: str
    prompt: tuple[int, ...]
    text: str
    limit: int
    stop: tuple[str, ...]
    stop_ids: frozenset[int]
    keep_stop: bool
    stream: bool
    usage: bool
    usage_in_every_event: bool
    logprobs: LogprobOptions | None
    echo: bool
    token_ids: bool
    namespace: str
    host: str
    port: int
    room: int | None
    decode_first: bool = False
    adapter: str | None = None
    module: str | None = None
    repeated: Sequence[int] | None = None

    @property
    def prefilled(self) -> tuple[int, ...]:
        """The tokens of the prompt that the prefill worker computes."""
        return self.prompt[:-1] if self.decode_first else self.prompt
