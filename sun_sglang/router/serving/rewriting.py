"""What turns a worker's bytes into the client's: its own rid, its task's name, the prompt's logprobs. Pure."""

from __future__ import annotations

from typing import Any

import orjson

from sun_sglang.router.dispatch.pair_request import PairRequest, worker_model
from sun_sglang.router.protocol.logprobs import InputLogprobs, StreamedLogprobs
from sun_sglang.router.protocol.worker_replies import parse_result


def needs_rewriting(request: PairRequest, rid: str | None) -> bool:
    """Whether the workers' bytes are not what the client is to see.

    Args:
        request: what the workers were asked.
        rid: the client's id, if it sent one.
    """
    return request.needs_prefill or rid is not None or worker_model(request.task) != request.task


class Rewriter:
    """Rewrites one answer.

    Args:
        request: what the workers were asked.
        rid: the client's id, if it sent one.
        worker_rid: the workers' id.
        prefill: the prefill worker's reply, where the answer takes input logprobs from it.

    Raises:
        BadReplyError: `prefill` holds no logprobs.
    """

    def __init__(self, request: PairRequest, rid: str | None, worker_rid: str, prefill: bytes | None) -> None:
        self._names: list[tuple[bytes, bytes]] = []
        if rid is not None:
            # an id is 32 random hex characters, so nothing else in the reply reads like it
            self._names.append((orjson.dumps(worker_rid), orjson.dumps(rid)))
        if (wire := worker_model(request.task)) != request.task:
            self._names.append((orjson.dumps(wire), orjson.dumps(request.task)))
        self._logprobs = InputLogprobs(request.endpoint, prefill) if prefill is not None else None
        self._streamed = StreamedLogprobs(request.endpoint, self._logprobs) if self._logprobs is not None else None

    def body(self, data: bytes) -> bytes:
        """Rewrite a whole answer.

        Raises:
            BadReplyError: it has to change and has not the shape of an answer.
        """
        named = self.name(data)
        if self._logprobs is None:
            return named
        return orjson.dumps(self._logprobs.add_to(parse_result(named)))

    def event(self, data: bytes) -> bytes:
        """Rewrite the data of a stream's next event.

        Raises:
            BadReplyError: it has to change and has not the shape of an event.
        """
        named = self.name(data)
        if self._streamed is None or not self._streamed.may_change(named):
            return named
        return orjson.dumps(self._streamed.add_to(parse_result(named)))

    def name(self, data: bytes) -> bytes:
        """Replace the workers' names by the client's."""
        for ours, theirs in self._names:
            data = data.replace(ours, theirs)
        return data

    def chunk(self, parsed: dict[str, Any]) -> dict[str, Any]:
        """Rewrite a stream's next event that is parsed and has the client's names already."""
        return parsed if self._streamed is None else self._streamed.add_to(parsed)
