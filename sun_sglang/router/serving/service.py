"""Serve one client request: parse, charge, check, admit, deliver, report."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from aiohttp import web

from sun_sglang.contracts.fleet_file import FleetTask
from sun_sglang.errors import RequestError
from sun_sglang.router.auth.access import visible_tasks
from sun_sglang.router.auth.api_keys import ApiKey
from sun_sglang.router.dispatch.attempt import Ticket
from sun_sglang.router.dispatch.dispatcher import Dispatcher
from sun_sglang.router.dispatch.failover.losses import Failover
from sun_sglang.router.dispatch.legs.cache_namespace import cache_namespace
from sun_sglang.router.dispatch.legs.pair_request import PairRequest, make_pair_requests, worker_model
from sun_sglang.router.dispatch.shared_prompt import SharedPrompt, share_prompts
from sun_sglang.router.errors import ApiError
from sun_sglang.router.observability.metrics import Metrics
from sun_sglang.router.observability.request_context import current_context
from sun_sglang.router.protocol.fan_out import SingleRequest, has_several_answers, split_request
from sun_sglang.router.protocol.fields.patterns import check_patterns
from sun_sglang.router.protocol.request import Endpoint, Request, Translate, parse_request
from sun_sglang.router.scheduling.cost import Cost
from sun_sglang.router.scheduling.prefix_keys import PrefixKeys, prefix_keys
from sun_sglang.router.scheduling.recent_sessions import session_name
from sun_sglang.router.serving.admission.admission_queue import AdmissionQueue, Slot
from sun_sglang.router.serving.admission.length_check import CheckedLimits
from sun_sglang.router.serving.admission.work_estimate import WorkEstimate
from sun_sglang.router.serving.delivery.delivery import Delivery, Part
from sun_sglang.router.serving.in_flight import InFlight
from sun_sglang.router.serving.reporting.request_end import RequestEndReporter, request_outcome
from sun_sglang.router.workers.registry import Registry

TASK_HEADER = "X-Sun-Task"
SESSION_HEADER = "X-Sun-Session"


class Service:
    """Serves the endpoints that make text.

    Args:
        dispatcher: for the clock.
        queue: admits answers.
        in_flight: holds the requests until they end.
        metrics: counts clients over their rate.
        registry: the tasks and their limits.
        check_length: refuses prompts that no worker accepts.
        needs_keys: a routing policy reads the beginning of prompts.
        estimate: the expected work of answers.
        delivery: sends answers to clients.
        reporter: reports ended requests.

    Attributes:
        reporter: see above.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        queue: AdmissionQueue,
        in_flight: InFlight,
        metrics: Metrics,
        registry: Registry,
        check_length: Callable[[Request, Sequence[SingleRequest]], Awaitable[CheckedLimits]],
        needs_keys: bool,
        estimate: WorkEstimate,
        delivery: Delivery,
        reporter: RequestEndReporter,
    ) -> None:
        self.reporter = reporter
        self._allowed = frozenset(registry.fleet.router.allow)
        # several answers together may send as many bytes as one answer to the largest body that is accepted
        self._max_sent = int(2 * registry.fleet.router.max_body_mb * (1 << 20))
        limits = registry.fleet.router
        self._failover = Failover(limits.failover_tokens, limits.failover_attempts)
        self._now = dispatcher.attempts.now
        self._queue = queue
        self._in_flight = in_flight
        self._metrics = metrics
        self._registry = registry
        self._check_length = check_length
        self._needs_keys = needs_keys
        self._estimate = estimate
        self._delivery = delivery

    async def handle(
        self, endpoint: Endpoint, http: web.Request, key: ApiKey | None, translate: Translate | None = None
    ) -> web.StreamResponse:
        """Answer one HTTP request.

        Args:
            endpoint: its path.
            http: the request; its body is read here.
            key: the client's API key; None if the router has none.
            translate: makes a request of `endpoint` from a body of another API; None if it is the client's own.

        Raises:
            ApiError: the client receives it instead of an answer. No byte has gone to the client.
            RequestError: the request was refused before dispatch.
        """
        arrived = self._now()
        raw = await http.read()
        header_task, tasks = http.headers.get(TASK_HEADER), visible_tasks(self._registry.task_names)
        request = parse_request(
            endpoint, raw, header_task=header_task, tasks=tasks, allowed=self._allowed, translate=translate
        )
        current_context.get().task = request.task
        # the task may leave the fleet before the request is dispatched
        task = self._registry.fleet.tasks[request.task]
        if "stop_regex" in self._allowed:
            await check_patterns(request.body)
        singles = split_request(request)
        costs = self._estimate.costs(request, singles)
        work = request.n * sum(cost.decode for cost in costs)
        # before anything expensive: a client over its rate must not make the router or a tokenizer work
        if key is not None:
            self._charge(key, request.task, work, arrived)
        owner = key.name if key else ""
        session = session_name(owner, http.headers.get(SESSION_HEADER))
        try:
            checked = await self._check_length(request, singles)
            self._estimate.offer(request, task.decode, costs)
            pair_requests = self._pair_requests(request, singles, costs, task, session)
        except (ApiError, RequestError):
            if key is not None:
                key.refund(work)
            raise
        shared = share_prompts(pair_requests, self._registry.usable(request.task))
        ticket = partial(
            Ticket, arrived=arrived, owner=owner, checked=checked, failover=self._failover if task.failover else None
        )
        parts = tuple(
            self._part(single, pair_request, ticket(request.task, single.rid), prompt)
            for single, pair_request, prompt in zip(singles, pair_requests, shared, strict=True)
        )
        return await self._serve(http, request, parts, session)

    async def _serve(
        self, http: web.Request, request: Request, parts: tuple[Part, ...], session: str | None
    ) -> web.StreamResponse:
        """Admit the answers of a request and deliver them; report the outcome."""
        outcome = "disconnected"
        current_context.get().outcome_counted = True
        tickets = tuple(part.ticket for part in parts)
        group = request.rid if isinstance(request.rid, str) and has_several_answers(request) else None
        try:
            self._in_flight.add(tickets, group)
            try:
                with self._queue.enter([part.slot for part in parts], session):
                    outcome, response = await self._delivery.deliver(http, request, parts)
                    return response
            finally:
                self._in_flight.remove(tickets, group)
        except ApiError as error:
            outcome = request_outcome(error)
            raise
        except RequestError:
            outcome = "refused"
            raise
        finally:
            if outcome == "disconnected" and current_context.get().client_stalled:
                outcome = "stalled"
            self.reporter.report(outcome, request.endpoint, tickets, http.headers, self._now())

    def _part(
        self, single: SingleRequest, pair_request: PairRequest, ticket: Ticket, shared: SharedPrompt | None
    ) -> Part:
        return Part(single, pair_request, ticket, Slot(self._queue, ticket, pair_request.cost.decode), shared)

    def _pair_requests(
        self,
        request: Request,
        singles: Sequence[SingleRequest],
        costs: Sequence[Cost],
        task: FleetTask,
        session: str | None,
    ) -> tuple[PairRequest, ...]:
        keys: list[PrefixKeys] = []
        if self._needs_keys:
            for single in singles[:: request.n]:
                of = cache_namespace(task.prefill, "", single.extra_key, single.cache_salt, weights=task.weights)
                keys.append(prefix_keys(request.endpoint, single.body, of=of, session=session))
        model = worker_model(request.task)
        return make_pair_requests(request, singles, costs, worker_model=model, keys=keys, max_bytes=self._max_sent)

    def _charge(self, key: ApiKey, task: str, work: int, now: float) -> None:
        try:
            key.charge(work, now)
        except ApiError:
            self._metrics.turned_away.labels(task, "rate").inc()
            raise
