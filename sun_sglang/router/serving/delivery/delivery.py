"""Deliver answers to the client: whole or streamed, one or several. I/O: the client's connection."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import orjson
from aiohttp import web

from sun_sglang.contracts.module import TaskWeights
from sun_sglang.router.dispatch.attempt import Ticket
from sun_sglang.router.dispatch.dispatcher import Dispatcher
from sun_sglang.router.dispatch.legs.pair_request import PairRequest
from sun_sglang.router.dispatch.outcome.worker_refusal import event_error
from sun_sglang.router.dispatch.pair_response import Answer, StreamBrokenError
from sun_sglang.router.dispatch.shared_prompt import SharedPrompt
from sun_sglang.router.errors import ApiError, broken_stream_error, internal_error
from sun_sglang.router.observability.log import Log
from sun_sglang.router.observability.metrics import Metrics
from sun_sglang.router.protocol.fan_out import SingleRequest, has_several_answers, merge_replies
from sun_sglang.router.protocol.request import Endpoint, Request
from sun_sglang.router.protocol.sse import DONE, StreamFilter, frame
from sun_sglang.router.protocol.worker_replies import BadReplyError, TokenCounts, token_counts
from sun_sglang.router.serving.admission.admission_queue import Slot
from sun_sglang.router.serving.admission.work_estimate import WorkEstimate
from sun_sglang.router.serving.delivery.merged_stream import MergedStream
from sun_sglang.router.serving.delivery.rewriting import Rewriter, make_rewriter, needs_rewriting, rewrite_whole
from sun_sglang.router.serving.delivery.translated_answer import new_stream, translated_whole
from sun_sglang.router.serving.delivery.weights_headers import weights_headers

_JSON = {"Content-Type": "application/json"}


class Part(NamedTuple):
    """One answer of a client's request.

    Attributes:
        single: the client's view of it.
        pair_request: the workers' view of it.
        ticket: its state.
        slot: its place among the answers in flight.
        shared: the prompt that it has in common with other answers; None if it starts at once.
    """

    single: SingleRequest
    pair_request: PairRequest
    ticket: Ticket
    slot: Slot
    shared: SharedPrompt | None


class Delivery:
    """Sends answers to clients.

    Args:
        dispatcher: gets responses from workers.
        estimate: records the lengths of answers.
        metrics: counts tokens and times.
        log: reports exceptions that should not occur.
    """

    def __init__(self, dispatcher: Dispatcher, estimate: WorkEstimate, metrics: Metrics, log: Log) -> None:
        self._dispatcher = dispatcher
        self._now = dispatcher.attempts.now
        self._estimate = estimate
        self._metrics = metrics
        self._log = log

    async def deliver(
        self, http: web.Request, request: Request, parts: tuple[Part, ...]
    ) -> tuple[str, web.StreamResponse]:
        """Answer a request as its slots are granted. Return the outcome for the metrics, and the HTTP response.

        Args:
            http: the HTTP request.
            request: the same, parsed.
            parts: one for each answer.

        Raises:
            ApiError: the client receives it instead of an answer. No byte has gone to the client.
        """
        several = has_several_answers(request)
        if request.stream:
            return await (self._stream_many(http, request, parts) if several else self._stream(http, request, parts[0]))
        return await (self._whole_many(http, request, parts) if several else self._whole(http, request, parts[0]))

    # --- whole answers ------------------------------------------------------------------------------------------------

    async def _whole(self, http: web.Request, request: Request, part: Part) -> tuple[str, web.StreamResponse]:
        response = await self._pair_response(part)
        body, result = rewrite_whole(_rewriter(part, response), part.pair_request.endpoint, response.head)
        self._count(request.task, 1, token_counts(result))
        if request.translation is not None:
            body = translated_whole(request.translation, result)
        return _outcome(part), await _send(http, body, [response.weights])

    async def _whole_many(
        self, http: web.Request, request: Request, parts: tuple[Part, ...]
    ) -> tuple[str, web.StreamResponse]:
        weights: list[TaskWeights | None] = []

        async def one(part: Part) -> object:
            response = await self._pair_response(part)
            weights.append(response.weights)
            return rewrite_whole(_rewriter(part, response), part.pair_request.endpoint, response.head)[1]

        failed: ApiError | None = None
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(part)) for part in parts]
        except* ApiError as errors:
            failed = _first(errors)
        if failed is not None:
            raise failed
        reply = merge_replies(request, [task.result() for task in tasks])
        if isinstance(reply, dict) and isinstance(request.rid, str):
            reply["id"] = request.rid
        self._count(request.task, len(parts), token_counts(reply))
        return _outcome(*parts), await _send(http, orjson.dumps(reply), weights)

    # --- streams ------------------------------------------------------------------------------------------------------

    async def _stream(self, http: web.Request, request: Request, part: Part) -> tuple[str, web.StreamResponse]:
        response = await self._pair_response(part)
        try:
            stream = _filter(request, part, response)
            piece = stream.feed(response.head)
            if stream.bad is not None and not piece:
                raise ApiError(502, str(stream.bad), code="decode_failed")
        except BaseException:
            response.abandon()
            raise
        out = new_stream(request.translation)
        out.headers.update(weights_headers([response.weights]))
        first = self._now()
        delivered = False
        try:
            await out.prepare(http)
            self._metrics.ttft.labels(request.task).observe(first - part.ticket.arrived)
            outcome = await _pump(response, stream, piece, out, part)
            delivered = outcome in ("ok", "aborted")
            await out.write_eof()
        except (ConnectionResetError, BrokenPipeError):
            outcome = "disconnected"
        except Exception as e:
            outcome = await self._end_with_error(http, out, e)
        finally:
            response.finish() if delivered else response.abandon()
        self._count_stream(request, stream, first)
        return outcome, out

    async def _stream_many(
        self, http: web.Request, request: Request, parts: tuple[Part, ...]
    ) -> tuple[str, web.StreamResponse]:
        merged = MergedStream(request, [p.single.answer_index for p in parts], partial(self._log_defect, http))

        weights: list[TaskWeights | None] = []

        async def one(part: Part) -> None:
            response = await self._pair_response(part)
            weights.append(response.weights)
            delivered = False
            try:
                await merged.forward(part.single.answer_index, response, part.ticket, _rewriter(part, response))
                delivered = True
            finally:
                response.finish() if delivered else response.abandon()

        out = new_stream(request.translation)
        try:
            async with merged.running([one(part) for part in parts]):
                piece = await merged.first()
                first = self._now()
                # of the answers that have begun; the others follow after the header
                out.headers.update(weights_headers(weights))
                await out.prepare(http)
                self._metrics.ttft.labels(request.task).observe(first - parts[0].ticket.arrived)
                while piece:
                    await out.write(piece)
                    piece = await merged.next()
                await out.write_eof()
        except (ConnectionResetError, BrokenPipeError):
            return "disconnected", out
        except Exception as e:
            return await self._end_with_error(http, out, e), out
        self._count(request.task, len(parts), merged.tokens())
        return ("failed" if merged.failed else _outcome(*parts)), out

    async def _end_with_error(self, http: web.Request, out: web.StreamResponse, error: Exception) -> str:
        """End a stream that the router itself broke. Raise `error` again if no byte has gone to the client."""
        if not out.prepared:
            raise error
        self._log_defect(http, error)
        with suppress(ConnectionResetError, BrokenPipeError):
            await out.write(internal_error().as_event())
            await out.write_eof()
        return "failed"

    # ------------------------------------------------------------------------------------------------------------------

    async def _pair_response(self, part: Part) -> Answer:
        """Wait for the answer's slot, and get its response. The slot is held until the decode leg has ended.

        Raises:
            ApiError: the client receives it instead of an answer. No byte has gone to the client.
        """
        await part.slot.acquire()
        if part.shared is None:
            response = await self._dispatcher.dispatch(part.pair_request, part.ticket)
        else:
            response = await part.shared.dispatch(self._dispatcher, part.pair_request, part.ticket)
        response.when_decoded(part.slot.release)
        return response

    def _log_defect(self, http: web.Request, error: Exception) -> None:
        self._log.event("defect", path=http.path, trace="".join(traceback.format_exception(error)))

    def _count(self, task: str, answers: int, counts: TokenCounts) -> None:
        self._metrics.count_tokens(task, counts)
        self._estimate.learn(task, answers, counts)

    def _count_stream(self, request: Request, stream: StreamFilter, first: float) -> None:
        counts = stream.tokens()
        self._count(request.task, 1, counts)
        if stream.done and counts.completion > 1:
            self._metrics.itl.labels(request.task).observe((self._now() - first) / (counts.completion - 1))


async def _pump(response: Answer, stream: StreamFilter, piece: bytes, out: web.StreamResponse, part: Part) -> str:
    """Forward a stream to its end, and return the outcome. Any end but the worker's own becomes an error event."""
    try:
        while True:
            if piece:
                await out.write(piece)
            if stream.ended:
                break
            chunk = await response.read()
            if not chunk:
                raise StreamBrokenError("it ended without [DONE]")
            piece = stream.feed(chunk)
    except StreamBrokenError as broken:
        response.report_broken(str(broken))
        await out.write(broken_stream_error(str(broken), broken.code).as_event())
        return "failed"
    except BadReplyError:
        # the translation could not read on, and has sent the error; the model may be the cause, so no worker is blamed
        return "failed"
    if stream.done:
        return _outcome(part)
    if stream.aborted is not None and part.ticket.abort_asked:
        await out.write(frame(stream.rewrite(stream.aborted) if stream.rewrite else stream.aborted) + DONE)
        return "aborted"
    if stream.error is not None:
        await out.write(event_error(stream.error).as_event())
    else:
        await out.write(broken_stream_error(str(stream.bad or "the worker aborted the request")).as_event())
    return "failed"


async def _send(http: web.Request, body: bytes, weights: Iterable[TaskWeights | None]) -> web.Response:
    """Send a whole answer. It counts as delivered only once the client has accepted it.

    Raises:
        ConnectionResetError: the client left, or did not read.
    """
    response = web.Response(body=body, headers={**_JSON, **weights_headers(weights)})
    await response.prepare(http)
    await response.write_eof()
    return response


def _rewriter(part: Part, response: Answer) -> Rewriter:
    return make_rewriter(part.pair_request, part.single.rid, response.rid, response.prefill)


def _filter(request: Request, part: Part, response: Answer) -> StreamFilter:
    strip = request.endpoint is not Endpoint.GENERATE and not request.include_usage
    rewrite = _rewriter(part, response).event if needs_rewriting(part.pair_request, part.single.rid) else None
    return StreamFilter(strip_usage=strip, rewrite=rewrite)


def _outcome(*parts: Part) -> str:
    return "aborted" if any(part.ticket.abort_asked for part in parts) else "ok"


def _first(errors: BaseExceptionGroup[ApiError]) -> ApiError:
    leaf = errors.exceptions[0]
    return leaf if isinstance(leaf, ApiError) else _first(leaf)
