"""What can be asked about a fleet: its tasks, its models, its workers, its health."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from typing import Any

import aiohttp
import orjson
from aiohttp import web
from pydantic import ValidationError

from sun_sglang.contracts.tasks_report import (
    PoolReport,
    ProvenPath,
    TaskReport,
    TasksReport,
    UnprovenPath,
    WorkerReport,
)
from sun_sglang.router.api.generation import Draining
from sun_sglang.router.api.merging import merge_tasks
from sun_sglang.router.api.sibling_processes import SiblingProcesses
from sun_sglang.router.auth.access import current_key, visible_tasks
from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.dispatch.cache_namespace import cache_namespace
from sun_sglang.router.errors import ApiError
from sun_sglang.router.health.canary import OUTPUT_TOKENS, PROMPT_TOKENS
from sun_sglang.router.health.path_prover import PathProver
from sun_sglang.router.protocol.request import choose_task
from sun_sglang.router.protocol.worker_replies import error_message, parse_json
from sun_sglang.router.serving.admission import AdmissionQueue
from sun_sglang.router.serving.in_flight import InFlight
from sun_sglang.router.serving.service import TASK_HEADER
from sun_sglang.router.transport.http_session import describe_error, read_at_most
from sun_sglang.router.workers.paths import UnusablePath, WorkerPath
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.worker import Worker

# SGLang's `/server_info` has some kilobytes a rank.
MAX_INFO_BYTES = 1 << 22
_MOST_PATIENCE_S = 3600.0
_SECRET = ("api_key", "password", "token_file", "keyfile")


class InfoHandlers:
    """Answers questions about the fleet. Asks workers only for what they alone know."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        registry: Registry,
        path_prover: PathProver,
        inflight: InFlight,
        queue: AdmissionQueue,
        siblings: SiblingProcesses,
        draining: Draining,
        deadlines: Deadlines,
        *,
        shows_tasks: bool,
    ) -> None:
        self._draining = draining
        self._deadlines = deadlines
        self._shows_tasks = shows_tasks
        self._canaries: dict[WorkerPath, asyncio.Task[str]] = {}
        self._queue = queue
        self._siblings = siblings
        self._session = session
        self._registry = registry
        self._path_prover = path_prover
        self._inflight = inflight
        self._started = int(time.time())

    async def tasks(self, http: web.Request) -> web.Response:
        """GET /tasks: per task its pools, workers, paths, and what is in flight."""
        in_flight = Counter(ticket.task for ticket in self._inflight.tickets)
        names = self._registry.task_names
        tasks = {name: self._task(name, in_flight[name]) for name in names}
        own = TasksReport(ready=not self._registry.unserved(), draining=self._draining.active, tasks=tasks)
        others = await self._siblings.broadcast("GET", "/tasks", http.headers)
        merged = merge_tasks(own, [_report(body) for body in others.values()])
        return _json(merged.model_dump())

    async def models(self, http: web.Request) -> web.Response:
        """GET /v1/models: the tasks that the client may call, in OpenAI's shape."""
        names = visible_tasks(self._registry.task_names)
        return _json({"object": "list", "data": [self._model(name) for name in names]})

    async def model(self, http: web.Request) -> web.Response:
        """GET /v1/models/{model}."""
        name = http.match_info["model"]
        if name not in visible_tasks(self._registry.task_names):
            raise ApiError(404, f"no task is named `{name}`", param="model", code="model_not_found")
        return _json(self._model(name))

    async def health(self, _: web.Request) -> web.Response:
        """GET /health: 200 while every task has a proven path and the router takes requests.

        It needs no key, so where there are keys it names no task.
        """
        missing = self._registry.unserved()
        ok = not missing and not self._draining.active
        body: dict[str, object] = {"status": "ok" if ok else "draining" if self._draining.active else "unready"}
        if self._shows_tasks:
            body["unserved_tasks"] = missing
        return _json(body, 200 if ok else 503)

    async def health_generate(self, _: web.Request) -> web.Response:
        """GET /health_generate: a canary over one proven path of every task that the client may call.

        Tasks with the same path share a canary, and so do clients that ask at the same time. The request counts as one
        request of its key for each path.
        """
        tasks = visible_tasks(self._registry.task_names)
        usable = {task: self._registry.usable(task) for task in tasks}
        paths = {task: pairs[0].path for task, pairs in usable.items() if pairs}
        distinct = tuple(dict.fromkeys(paths.values()))
        if (key := current_key.get()) is not None:
            requests = max(1, len(distinct))
            tokens = (PROMPT_TOKENS + OUTPUT_TOKENS) * requests
            key.charge(tokens, asyncio.get_running_loop().time(), requests=requests)
        faults = dict(zip(distinct, await asyncio.gather(*map(self._canary, distinct)), strict=True))
        found = {task: faults[paths[task]] if task in paths else "no proven path" for task in tasks}
        failed = {task: fault for task, fault in found.items() if fault}
        return _json({"status": "failed" if failed else "ok", "failed_tasks": failed}, 503 if failed else 200)

    async def model_info(self, http: web.Request) -> web.Response:
        """GET /model_info: a prefill worker's, under the task's name. The task as in a request, else the first."""
        tasks = visible_tasks(self._registry.task_names)
        asked = http.headers.get(TASK_HEADER) or http.query.get("model")
        task = tasks[0] if tasks and not asked else choose_task(asked, None, tasks)
        pairs = self._registry.usable(task)
        if not pairs:
            raise ApiError(503, f"no worker can serve task `{task}` now", code="no_worker")
        info = await self._ask(pairs[0].prefill, "/model_info")
        return _json({**info, "served_model_name": task, "tasks": tasks})

    async def server_info(self, _: web.Request) -> web.Response:
        """GET /server_info: every worker's, in the lists that SGLang's clients look for behind a PD load balancer."""
        workers = list(self._registry.workers.values())
        infos = await asyncio.gather(*(self._server_info(w) for w in workers))
        by_role: dict[str, list[dict[str, Any]]] = {"prefill": [], "decode": []}
        for worker, info in zip(workers, infos, strict=True):
            if info is not None:
                by_role[worker.role].append({"worker": worker.name, **info})
        lists = [info.get("internal_states") for info in by_role["decode"]]
        states = [state for given in lists if isinstance(given, list) for state in given]
        return _json({**by_role, "internal_states": states, "tasks": list(self._registry.fleet.tasks)})

    async def flush_cache(self, http: web.Request) -> web.Response:
        """POST /flush_cache: on every worker; 400 if one did not, as a busy SGLang server answers."""
        workers = [w for w in self._registry.workers.values() if w.card is not None]
        patience = _patience(http.query.get("timeout") or "0")
        seconds = self._deadlines.worker_info + max(0.0, patience)

        async def flush(worker: Worker) -> str:
            try:
                status, body = await self._request("POST", worker, f"/flush_cache?timeout={patience:g}", seconds)
            except (aiohttp.ClientError, OSError) as e:
                return describe_error(e)
            return "" if status == 200 else error_message(body).strip() or f"it answered {status}"

        faults = await asyncio.gather(*(flush(w) for w in workers))
        failed = [f"{w.name}: {fault}" for w, fault in zip(workers, faults, strict=True) if fault]
        if failed:
            return web.Response(status=400, text="Flush cache failed.\n" + "\n".join(failed) + "\n")
        return web.Response(text=f"Cache flushed on {len(workers)} workers.\n")

    # --- pieces -----------------------------------------------------------------------------------------------------

    def _task(self, name: str, in_flight: int) -> TaskReport:
        task = self._registry.fleet.tasks[name]
        pairs = self._registry.usable(name)
        modules = [w.card.module for w in self._registry.members(task.prefill) if w.card and w.admitted]
        return TaskReport(
            ready=bool(pairs),
            prefill=self._pool(task.prefill),
            decode=self._pool(task.decode),
            paths=tuple(ProvenPath(prefill=p.prefill.name, decode=p.decode.name) for p in pairs),
            unproven_paths=tuple(self._unusable(path) for path in self._registry.unusable(name)),
            queued=self._queue.waiting(name),
            in_flight=in_flight,
            namespace=cache_namespace(task.prefill, modules[0]) if modules else None,
        )

    def _unusable(self, unusable: UnusablePath) -> UnprovenPath:
        path, refusal = unusable
        why, times = (refusal, 0) if refusal else self._path_prover.last_fault(path)
        return UnprovenPath(prefill=path.prefill, decode=path.decode, why=why, times=times, refused=bool(refusal))

    def _pool(self, name: str) -> PoolReport:
        members = (self._worker(worker) for worker in self._registry.members(name))
        return PoolReport(pool=name, model=self._registry.fleet.pools[name].model, workers=tuple(members))

    def _worker(self, worker: Worker) -> WorkerReport:
        return WorkerReport(
            name=worker.name,
            url=worker.spec.url,
            state=self._registry.state(worker.name).value,
            reason=worker.reason,
            incarnation=worker.card.incarnation if worker.card else None,
            in_flight=worker.load.total_requests,
        )

    def _model(self, name: str) -> dict[str, Any]:
        limit = self._registry.limit(name)
        return {
            "id": name,
            "object": "model",
            "created": self._started,
            "owned_by": "sun-sglang",
            "root": name,
            "parent": None,
            "max_model_len": limit.tokens + 1 if limit else None,
        }

    async def _canary(self, path: WorkerPath) -> str:
        running = self._canaries.get(path)
        if running is None:
            running = self._canaries[path] = asyncio.create_task(self._path_prover.canary(path))
            running.add_done_callback(lambda _: self._canaries.pop(path))
        # the others wait for it too where this client leaves
        return await asyncio.shield(running)

    async def _server_info(self, worker: Worker) -> dict[str, Any] | None:
        if worker.card is None:
            return None
        try:
            info = await self._ask(worker, "/server_info")
        except ApiError as error:
            return {"error": error.message}
        return {k: v for k, v in info.items() if k != "launch_command" and not any(s in k for s in _SECRET)}

    async def _ask(self, worker: Worker, path: str) -> dict[str, Any]:
        try:
            status, body = await self._request("GET", worker, path, self._deadlines.worker_info)
        except (aiohttp.ClientError, OSError) as e:
            raise ApiError(502, f"worker `{worker.name}` does not answer {path}: {describe_error(e)}") from e
        info = parse_json(body)
        if status != 200 or not isinstance(info, dict):
            raise ApiError(502, f"worker `{worker.name}` answered {status} to {path}")
        return info

    async def _request(self, method: str, worker: Worker, path: str, seconds: float) -> tuple[int, bytes]:
        """Return the status and the body of a worker's reply. A worker sends the router nowhere else."""
        url, headers, timeout = worker.spec.url + path, worker.spec.headers, aiohttp.ClientTimeout(total=seconds)
        async with self._session.request(
            method, url, headers=headers, timeout=timeout, allow_redirects=False
        ) as response:
            return response.status, await read_at_most(response, MAX_INFO_BYTES)


def _report(body: bytes | None) -> TasksReport | None:
    """Read the report of a sibling process; None where it sent none."""
    try:
        return None if body is None else TasksReport.model_validate_json(body)
    except ValidationError:
        return None


def _patience(text: str) -> float:
    """Read a number of seconds that a worker may wait."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.inf
    # `not` also holds for a NaN
    if not seconds <= _MOST_PATIENCE_S:
        message = f"`timeout` has to be a number of seconds up to {_MOST_PATIENCE_S:g}"
        raise ApiError(400, message, param="timeout")
    return max(seconds, -1.0)


def _json(body: object, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")
