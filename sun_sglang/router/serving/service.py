"""One client request from its body to its last byte."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import orjson
from aiohttp import web

from sun_sglang.errors import RequestError
from sun_sglang.router.auth.access import visible_tasks
from sun_sglang.router.auth.api_keys import ApiKey
from sun_sglang.router.dispatch.attempt import Ticket
from sun_sglang.router.dispatch.cache_namespace import cache_namespace
from sun_sglang.router.dispatch.dispatcher import Dispatcher
from sun_sglang.router.dispatch.pair_request import PairRequest, make_pair_requests, worker_model
from sun_sglang.router.dispatch.pair_response import PairResponse, StreamBrokenError
from sun_sglang.router.errors import ApiError, broken_stream_error, internal_error
from sun_sglang.router.observability.log import Log
from sun_sglang.router.observability.metrics import Metrics
from sun_sglang.router.observability.request_context import current_context
from sun_sglang.router.observability.request_id import current_request_id
from sun_sglang.router.protocol.fan_out import (
    RESULT_FIELD,
    SingleRequest,
    has_several_answers,
    merge_replies,
    split_request,
)
from sun_sglang.router.protocol.fields.patterns import check_patterns
from sun_sglang.router.protocol.request import Endpoint, Request, parse_request
from sun_sglang.router.protocol.sse import DONE, StreamFilter, frame
from sun_sglang.router.protocol.worker_replies import BadReplyError, TokenCounts, parse_result, token_counts
from sun_sglang.router.scheduling.cost import Cost, OutputLengths, estimate_cost
from sun_sglang.router.scheduling.prefix_keys import prefix_keys
from sun_sglang.router.serving.admission import AdmissionQueue, Slot
from sun_sglang.router.serving.in_flight import InFlight
from sun_sglang.router.serving.length_check import CheckedLimits
from sun_sglang.router.serving.merged_stream import MergedStream
from sun_sglang.router.serving.rewriting import Rewriter, needs_rewriting
from sun_sglang.router.serving.tracing import EndedRequest, Tracing
from sun_sglang.router.workers.registry import Registry

TASK_HEADER = "X-Sun-Task"
SESSION_HEADER = "X-Sun-Session"
_FAILURES = frozenset({"failed", "unavailable", "overdue"})
_JSON = {"Content-Type": "application/json"}
_SSE = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Part(NamedTuple):
    """One answer of a request: what is asked, who waits for it, and its slot among the answers in flight."""

    single: SingleRequest
    pair_request: PairRequest
    ticket: Ticket
    slot: Slot


class Service:
    """Serves the three endpoints that make text.

    Attributes:
        tracing: where traces go; None for nowhere.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        queue: AdmissionQueue,
        inflight: InFlight,
        metrics: Metrics,
        registry: Registry,
        check_length: Callable[[Request, Sequence[SingleRequest]], Awaitable[CheckedLimits]],
        needs_keys: bool,
        log: Log,
    ) -> None:
        self.tracing: Tracing | None = None
        self._log = log
        self._log_all = registry.fleet.router.log_requests
        self._allowed = frozenset(registry.fleet.router.allow)
        # several answers may send what one may whose body is as large as a body can be
        self._most_sent = int(2 * registry.fleet.router.max_body_mb * (1 << 20))
        self._dispatcher = dispatcher
        self._queue = queue
        self._output_lengths = OutputLengths()
        self._inflight = inflight
        self._metrics = metrics
        self._registry = registry
        self._check_length = check_length
        self._needs_keys = needs_keys

    async def handle(self, endpoint: Endpoint, http: web.Request, key: ApiKey | None) -> web.StreamResponse:
        """Answer one HTTP request.

        Raises:
            Problem: what to answer instead; nothing was sent yet.
            RequestError: the request was refused before dispatch.
        """
        arrived = self._dispatcher.attempts.now()
        raw = await http.read()
        header_task, tasks = http.headers.get(TASK_HEADER), visible_tasks(self._registry.task_names)
        request = parse_request(endpoint, raw, header_task=header_task, tasks=tasks, allowed=self._allowed)
        current_context.get().task = request.task
        # the task may leave the fleet before the request is dispatched
        pool = self._registry.fleet.tasks[request.task].prefill
        if "stop_regex" in self._allowed:
            await check_patterns(request.body)
        singles = split_request(request)
        costs = self._costs(request, singles)
        work = request.n * sum(cost.decode for cost in costs)
        # before anything that costs much: a client over its rate must not make the router or a tokenizer work
        if key is not None:
            self._charge(key, request.task, work, arrived)
        try:
            checked = await self._check_length(request, singles)
            pair_requests = self._pair_requests(request, singles, costs, pool, http.headers.get(SESSION_HEADER))
        except (ApiError, RequestError):
            if key is not None:
                key.refund(work)
            raise
        owner = key.name if key else ""
        parts = tuple(
            self._part(single, pair_request, Ticket(request.task, single.rid, arrived, owner=owner, checked=checked))
            for single, pair_request in zip(singles, pair_requests, strict=True)
        )
        outcome = "disconnected"
        current_context.get().outcome_counted = True
        tickets = tuple(p.ticket for p in parts)
        try:
            outcome, response = await self._admitted(http, request, parts, tickets)
            return response
        except ApiError as error:
            outcome = request_outcome(error)
            raise
        except RequestError:
            outcome = "refused"
            raise
        finally:
            if outcome == "disconnected" and current_context.get().client_stalled:
                outcome = "stalled"
            self._metrics.requests.labels(request.task, outcome).inc()
            self._metrics.seconds.labels(request.task).observe(self._dispatcher.attempts.now() - arrived)
            self._tell(http, endpoint, outcome, tickets)

    async def _admitted(
        self, http: web.Request, request: Request, parts: tuple[Part, ...], tickets: tuple[Ticket, ...]
    ) -> tuple[str, web.StreamResponse]:
        """Queue for a slot for each answer, and answer the request as slots are granted."""
        group = request.rid if isinstance(request.rid, str) and has_several_answers(request) else None
        self._inflight.add(tickets, group)
        try:
            with self._queue.enter([part.slot for part in parts]):
                return await self._respond(http, request, parts)
        finally:
            self._inflight.remove(tickets, group)

    def _tell(self, http: web.Request, endpoint: Endpoint, outcome: str, tickets: tuple[Ticket, ...]) -> None:
        """What an ended request leaves behind besides counts: a log line, a trace."""
        now = self._dispatcher.attempts.now()
        if self._log_all or outcome in _FAILURES:
            workers = [[w.name for w in attempt.pair] for ticket in tickets for attempt in ticket.tries]
            self._log.event(
                "request",
                task=tickets[0].task,
                path=endpoint,
                outcome=outcome,
                seconds=round(now - tickets[0].arrived, 4),
                queued=round(tickets[0].queued, 4),
                answers=len(tickets),
                workers=workers,
                key=tickets[0].owner,
            )
        if self.tracing is not None:
            self.tracing.record(
                EndedRequest(current_request_id.get(), endpoint, outcome, tickets, now, http.headers), now
            )

    def _part(self, single: SingleRequest, pair_request: PairRequest, ticket: Ticket) -> Part:
        return Part(single, pair_request, ticket, Slot(self._queue, ticket, pair_request.cost.decode))

    def _costs(self, request: Request, singles: Sequence[SingleRequest]) -> list[Cost]:
        """Expected work of an answer to each prompt."""
        expected, most = self._output_lengths.expected(request.task), self._longest(request.task)
        return [estimate_cost(request.endpoint, single.body, expected, most) for single in singles[:: request.n]]

    def _pair_requests(
        self, request: Request, singles: Sequence[SingleRequest], costs: Sequence[Cost], pool: str, session: str | None
    ) -> tuple[PairRequest, ...]:
        keys: list[tuple[int, ...]] = []
        if self._needs_keys:
            for single in singles[:: request.n]:
                of = cache_namespace(pool, "", single.extra_key, single.cache_salt)
                keys.append(prefix_keys(request.endpoint, single.body, of=of, session=session))
        model, max_bytes = worker_model(request.task), self._most_sent
        return make_pair_requests(request, singles, costs, worker_model=model, keys=keys, max_bytes=max_bytes)

    def _charge(self, key: ApiKey, task: str, work: int, now: float) -> None:
        try:
            key.charge(work, now)
        except ApiError:
            self._metrics.turned_away.labels(task, "rate").inc()
            raise

    def _count(self, task: str, answers: int, counts: TokenCounts) -> None:
        self._metrics.count_tokens(task, counts)
        made, most = counts.completion // answers, self._longest(task)
        # one false report must not price the task's next thousand answers
        self._output_lengths.record(task, made if most is None else min(made, most))

    def _longest(self, task: str) -> int | None:
        """Tokens of the longest answer that the task's workers can make; None where that is not known."""
        limit = self._registry.limit(task)
        return limit.tokens + 1 if limit else None

    async def _pair_response(self, part: Part) -> PairResponse:
        """Wait for the answer's slot, and get the answer. The slot is held until its decode leg has ended.

        Raises:
            Problem: what to tell the client instead. No byte has gone to it yet.
        """
        await part.slot.acquire()
        answer = await self._dispatcher.dispatch(part.pair_request, part.ticket)
        answer.when_decoded(part.slot.release)
        return answer

    async def _respond(
        self, http: web.Request, request: Request, parts: tuple[Part, ...]
    ) -> tuple[str, web.StreamResponse]:
        plural = has_several_answers(request)
        if request.stream:
            return await (self._stream_many(http, request, parts) if plural else self._stream(http, request, parts[0]))
        if plural:
            return await self._whole_many(http, request, parts)
        part = parts[0]
        answer = await self._pair_response(part)
        body, result = _whole(part, answer)
        self._count(request.task, 1, token_counts(result))
        return _ended(part), await _deliver(http, body)

    async def _whole_many(
        self, http: web.Request, request: Request, parts: tuple[Part, ...]
    ) -> tuple[str, web.StreamResponse]:
        async def one(part: Part) -> object:
            answer = await self._pair_response(part)
            return _whole(part, answer)[1]

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
        return _ended(*parts), await _deliver(http, orjson.dumps(reply))

    async def _stream(self, http: web.Request, request: Request, part: Part) -> tuple[str, web.StreamResponse]:
        answer = await self._pair_response(part)
        try:
            watch = _watch(request, part, answer)
            piece = watch.feed(answer.head)
            if watch.bad is not None and not piece:
                raise ApiError(502, str(watch.bad), code="decode_failed")
        except BaseException:
            answer.abandon()
            raise
        out = web.StreamResponse(headers=_SSE)
        first = self._dispatcher.attempts.now()
        delivered = False
        try:
            await out.prepare(http)
            self._metrics.ttft.labels(request.task).observe(first - part.ticket.arrived)
            outcome = await self._pump(answer, watch, piece, out, part.ticket)
            delivered = outcome in ("ok", "aborted")
            await out.write_eof()
        except (ConnectionResetError, BrokenPipeError):
            outcome = "disconnected"
        except Exception as e:
            outcome = await self._end_with_error(http, out, e)
        finally:
            answer.finish() if delivered else answer.abandon()
        self._count_stream(request, watch, first)
        return outcome, out

    async def _pump(
        self, answer: PairResponse, watch: StreamFilter, piece: bytes, out: web.StreamResponse, ticket: Ticket
    ) -> str:
        """Pass a stream on to its end. Returns how it ended; an end other than the worker's own is an error event."""
        try:
            while True:
                if piece:
                    await out.write(piece)
                if watch.ended:
                    break
                chunk = await answer.read()
                if not chunk:
                    raise StreamBrokenError("it ended without [DONE]")
                piece = watch.feed(chunk)
        except StreamBrokenError as broken:
            answer.report_broken(str(broken))
            await out.write(broken_stream_error(str(broken)).as_event())
            return "failed"
        if watch.done:
            return _ended_ticket(ticket)
        if watch.aborted is not None and ticket.abort_asked:
            await out.write(frame(watch.rewrite(watch.aborted) if watch.rewrite else watch.aborted) + DONE)
            return "aborted"
        if watch.error is not None:
            await out.write(frame(watch.error))
        else:
            await out.write(broken_stream_error(str(watch.bad or "the worker aborted the request")).as_event())
        return "failed"

    async def _stream_many(
        self, http: web.Request, request: Request, parts: tuple[Part, ...]
    ) -> tuple[str, web.StreamResponse]:
        merged = MergedStream(request, [p.single.answer_index for p in parts], partial(self._defect, http))

        async def one(part: Part) -> None:
            answer = await self._pair_response(part)
            delivered = False
            try:
                await merged.take(part.single.answer_index, answer, part.ticket, _rewriter(part, answer))
                delivered = True
            finally:
                answer.finish() if delivered else answer.abandon()

        out = web.StreamResponse(headers=_SSE)
        try:
            async with merged.running([one(part) for part in parts]):
                piece = await merged.first()
                first = self._dispatcher.attempts.now()
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
        return ("failed" if merged.failed else _ended(*parts)), out

    async def _end_with_error(self, http: web.Request, out: web.StreamResponse, error: Exception) -> str:
        """End a stream that the router itself broke. Raises `error` again where no byte has gone to the client."""
        if not out.prepared:
            raise error
        self._defect(http, error)
        with suppress(ConnectionResetError, BrokenPipeError):
            await out.write(internal_error().as_event())
            await out.write_eof()
        return "failed"

    def _defect(self, http: web.Request, error: Exception) -> None:
        self._log.event("defect", path=http.path, trace="".join(traceback.format_exception(error)))

    def _count_stream(self, request: Request, watch: StreamFilter, first: float) -> None:
        counts = watch.tokens()
        self._count(request.task, 1, counts)
        if watch.done and counts.completion > 1:
            self._metrics.itl.labels(request.task).observe(
                (self._dispatcher.attempts.now() - first) / (counts.completion - 1)
            )


async def _deliver(http: web.Request, body: bytes) -> web.Response:
    """Send an answer. It counts as answered only when the client has taken it.

    Raises:
        ConnectionResetError: the client left, or did not read.
    """
    response = web.Response(body=body, headers=_JSON)
    await response.prepare(http)
    await response.write_eof()
    return response


def _rewriter(part: Part, answer: PairResponse) -> Rewriter:
    try:
        return Rewriter(part.pair_request, part.single.rid, answer.rid, answer.prefill)
    except BadReplyError as e:
        raise ApiError(502, str(e), code="prefill_failed") from e


def _whole(part: Part, answer: PairResponse) -> tuple[bytes, dict[str, Any]]:
    """An unstreamed answer as the client is to see it, and the same parsed."""
    rewriter = _rewriter(part, answer)
    try:
        body = rewriter.body(answer.head)
        result = parse_result(body)
        if result.get(name := RESULT_FIELD[part.pair_request.endpoint]) is None:
            raise BadReplyError(f"the decode worker sent an answer without `{name}`")
        return body, result
    except BadReplyError as e:
        raise ApiError(502, str(e), code="decode_failed") from e


def _watch(request: Request, part: Part, answer: PairResponse) -> StreamFilter:
    strip = request.endpoint is not Endpoint.GENERATE and not request.include_usage
    rewrite = _rewriter(part, answer).event if needs_rewriting(part.pair_request, part.single.rid) else None
    return StreamFilter(strip_usage=strip, rewrite=rewrite)


def request_outcome(error: ApiError) -> str:
    """What the metrics call a request that ended with an error."""
    if error.status < 500:
        return "refused"
    return {503: "unavailable", 504: "overdue"}.get(error.status, "failed")


def _ended(*parts: Part) -> str:
    return "aborted" if any(part.ticket.abort_asked for part in parts) else "ok"


def _ended_ticket(ticket: Ticket) -> str:
    return "aborted" if ticket.abort_asked else "ok"


def _first(errors: BaseExceptionGroup[ApiError]) -> ApiError:
    leaf = errors.exceptions[0]
    return leaf if isinstance(leaf, ApiError) else _first(leaf)
