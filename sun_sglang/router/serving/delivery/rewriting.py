"""Rewrite a worker's bytes in the client's terms: the client's own id, its task's name, the prompt's logprobs. Pure."""

from __future__ import annotations

from typing import Any

import orjson

from sun_sglang.router.dispatch.legs.pair_request import PairRequest, worker_model
from sun_sglang.router.errors import ApiError
from sun_sglang.router.protocol.fan_out import RESULT_FIELD
from sun_sglang.router.protocol.logprobs import PrefillLogprobs, StreamedLogprobs
from sun_sglang.router.protocol.request import Endpoint
from sun_sglang.router.protocol.worker_replies import BadReplyError, parse_result


def needs_rewriting(request: PairRequest, rid: str | None) -> bool:
    """Return whether the client must receive other bytes than the worker's.

    Args:
        request: as the workers received it.
        rid: the client's id, if it sent one.
    """
    return request.needs_prefill or rid is not None or worker_model(request.task) != request.task


class Rewriter:
    """Rewrites one answer.

    Args:
        request: as the workers received it.
        rid: the client's id, if it sent one.
        worker_rid: the id on the workers.
        prefill: the prefill worker's response, if the answer includes logprobs of it; else None.

    Raises:
        BadReplyError: `prefill` contains no logprobs.
    """

    def __init__(self, request: PairRequest, rid: str | None, worker_rid: str, prefill: bytes | None) -> None:
        self._names: list[tuple[bytes, bytes]] = []
        if rid is not None:
            # an id is 32 random hex characters, so no other part of the response equals it
            self._names.append((orjson.dumps(worker_rid), orjson.dumps(rid)))
        if (model := worker_model(request.task)) != request.task:
            self._names.append((orjson.dumps(model), orjson.dumps(request.task)))
        self._logprobs = PrefillLogprobs(request.endpoint, prefill) if prefill is not None else None
        self._streamed = StreamedLogprobs(request.endpoint, self._logprobs) if self._logprobs is not None else None

    def body(self, data: bytes) -> bytes:
        """Rewrite a whole answer.

        Raises:
            BadReplyError: the answer needs logprobs and does not have the shape of an answer.
        """
        named = self.rename(data)
        if self._logprobs is None:
            return named
        return orjson.dumps(self._logprobs.add_to(parse_result(named)))

    def event(self, data: bytes) -> bytes:
        """Rewrite the data of a stream's next event.

        Raises:
            BadReplyError: the event needs logprobs and does not have the shape of an event.
        """
        named = self.rename(data)
        if self._streamed is None or not self._streamed.may_change(named):
            return named
        return orjson.dumps(self._streamed.add_to(parse_result(named)))

    def rename(self, data: bytes) -> bytes:
        """Replace the workers' names by the client's."""
        for ours, theirs in self._names:
            data = data.replace(ours, theirs)
        return data

    def chunk(self, parsed: dict[str, Any]) -> dict[str, Any]:
        """Rewrite a stream's next event that is parsed and renamed already."""
        return parsed if self._streamed is None else self._streamed.add_to(parsed)


def make_rewriter(request: PairRequest, rid: str | None, worker_rid: str, prefill: bytes | None) -> Rewriter:
    """Return the rewriter of one answer.

    Args:
        request: as the workers received it.
        rid: the client's id, if it sent one.
        worker_rid: the id on the workers.
        prefill: the prefill worker's response, if the answer includes logprobs of it; else None.

    Raises:
        ApiError: 502 `prefill_failed`: the prefill worker's response contains no logprobs.
    """
    try:
        return Rewriter(request, rid, worker_rid, prefill)
    except BadReplyError as e:
        raise ApiError(502, str(e), code="prefill_failed") from e


def rewrite_whole(rewriter: Rewriter, endpoint: Endpoint, head: bytes) -> tuple[bytes, dict[str, Any]]:
    """Return an unstreamed answer for the client, as bytes and parsed.

    Args:
        rewriter: of the answer.
        endpoint: its path.
        head: the decode worker's response.

    Raises:
        ApiError: 502 `decode_failed`: the response is no answer.
    """
    try:
        body = rewriter.body(head)
        result = parse_result(body)
        if result.get(name := RESULT_FIELD[endpoint]) is None:
            raise BadReplyError(f"the decode worker sent an answer without `{name}`")
        return body, result
    except BadReplyError as e:
        raise ApiError(502, str(e), code="decode_failed") from e
