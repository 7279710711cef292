"""Requests about models, workers and caches."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

import aiohttp
from aiohttp import web

from sun_sglang.router.api.responses import json_response
from sun_sglang.router.auth.access import current_key, visible_tasks
from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.errors import ApiError
from sun_sglang.router.health.canary import OUTPUT_TOKENS, PROMPT_TOKENS
from sun_sglang.router.health.path_prover import PathProver
from sun_sglang.router.protocol.request import choose_task
from sun_sglang.router.protocol.worker_replies import error_message, parse_json
from sun_sglang.router.serving.service import TASK_HEADER
from sun_sglang.router.transport.http_session import describe_error, read_at_most
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.worker import Worker
from sun_sglang.router.workers.worker_paths import WorkerPath

# SGLang's `/server_info` has a few kilobytes for each rank.
MAX_INFO_BYTES = 1 << 22
_MAX_FLUSH_TIMEOUT_S = 3600.0
_SECRET = ("api_key", "password", "token_file", "keyfile")


class InfoHandlers:
    """Handlers of requests about tasks, models and workers.

    Args:
        session: sends requests to workers, for information that only a worker has.
        registry: workers and paths.
        path_prover: sends canaries.
        deadlines: limits for workers' replies.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        registry: Registry,
        path_prover: PathProver,
        deadlines: Deadlines,
    ) -> None:
        self._session = session
        self._registry = registry
        self._path_prover = path_prover
        self._deadlines = deadlines
        self._canaries: dict[WorkerPath, asyncio.Task[str]] = {}
        self._started = int(time.time())

    async def models(self, http: web.Request) -> web.Response:
        """GET /v1/models: the tasks that the client may call, in OpenAI's format."""
        names = visible_tasks(self._registry.task_names)
        return json_response({"object": "list", "data": [self._model(name) for name in names]})

    async def model(self, http: web.Request) -> web.Response:
        """GET /v1/models/{model}: one task, in OpenAI's format."""
        name = http.match_info["model"]
        if name not in visible_tasks(self._registry.task_names):
            raise ApiError(404, f"no task is named `{name}`", param="model", code="model_not_found")
        return json_response(self._model(name))

    async def health_generate(self, _: web.Request) -> web.Response:
        """GET /health_generate: a canary over one proven path of every task that the client may call.

        Tasks with the same path share a canary, and so do requests that arrive at the same time. The request counts as
        one request of its key for each path.
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
        return json_response({"status": "failed" if failed else "ok", "failed_tasks": failed}, 503 if failed else 200)

    async def model_info(self, http: web.Request) -> web.Response:
        """GET /model_info: a prefill worker's reply under the task's name.

        The task comes from the header or the query parameter `model`; without either it is the first task.
        """
        tasks = visible_tasks(self._registry.task_names)
        asked = http.headers.get(TASK_HEADER) or http.query.get("model")
        task = tasks[0] if tasks and not asked else choose_task(asked, None, tasks)
        pairs = self._registry.usable(task)
        if not pairs:
            raise ApiError(503, f"no worker can serve task `{task}` now", code="no_worker")
        info = await self._get(pairs[0].prefill, "/model_info")
        return json_response({**info, "served_model_name": task, "tasks": list(tasks)})

    async def server_info(self, _: web.Request) -> web.Response:
        """GET /server_info: every worker's reply, in the lists that SGLang's own PD load balancer returns."""
        workers = list(self._registry.workers.values())
        infos = await asyncio.gather(*(self._server_info(w) for w in workers))
        by_role: dict[str, list[dict[str, Any]]] = {"prefill": [], "decode": []}
        for worker, info in zip(workers, infos, strict=True):
            if info is not None:
                by_role[worker.role].append({"worker": worker.name, **info})
        lists = [info.get("internal_states") for info in by_role["decode"]]
        states = [state for given in lists if isinstance(given, list) for state in given]
        return json_response({**by_role, "internal_states": states, "tasks": list(self._registry.fleet.tasks)})

    async def flush_cache(self, http: web.Request) -> web.Response:
        """POST or GET /flush_cache: flush the cache of every worker.

        The status is 400 if a worker did not flush; a busy SGLang server answers the same.
        """
        workers = [w for w in self._registry.workers.values() if w.card is not None]
        wait = _flush_timeout(http.query.get("timeout") or "0")
        seconds = self._deadlines.worker_info + max(0.0, wait)

        async def flush(worker: Worker) -> str:
            try:
                status, body = await self._request("POST", worker, f"/flush_cache?timeout={wait:g}", seconds)
            except (aiohttp.ClientError, OSError) as e:
                return describe_error(e)
            return "" if status == 200 else error_message(body).strip() or f"it answered {status}"

        faults = await asyncio.gather(*(flush(w) for w in workers))
        failed = [f"{w.name}: {fault}" for w, fault in zip(workers, faults, strict=True) if fault]
        if failed:
            return web.Response(status=400, text="Flush cache failed.\n" + "\n".join(failed) + "\n")
        return web.Response(text=f"Cache flushed on {len(workers)} workers.\n")

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
        # shielded: other clients may wait for the same canary when this one leaves
        return await asyncio.shield(running)

    async def _server_info(self, worker: Worker) -> dict[str, Any] | None:
        if worker.card is None:
            return None
        try:
            info = await self._get(worker, "/server_info")
        except ApiError as error:
            return {"error": error.message}
        return {k: v for k, v in info.items() if k != "launch_command" and not any(s in k for s in _SECRET)}

    async def _get(self, worker: Worker, path: str) -> dict[str, Any]:
        try:
            status, body = await self._request("GET", worker, path, self._deadlines.worker_info)
        except (aiohttp.ClientError, OSError) as e:
            raise ApiError(502, f"worker `{worker.name}` does not answer {path}: {describe_error(e)}") from e
        info = parse_json(body)
        if status != 200 or not isinstance(info, dict):
            raise ApiError(502, f"worker `{worker.name}` answered {status} to {path}")
        return info

    async def _request(self, method: str, worker: Worker, path: str, seconds: float) -> tuple[int, bytes]:
        """Return the status and the body of a worker's reply. Redirects are not followed."""
        url, headers, timeout = worker.spec.url + path, worker.spec.headers, aiohttp.ClientTimeout(total=seconds)
        async with self._session.request(
            method, url, headers=headers, timeout=timeout, allow_redirects=False
        ) as response:
            return response.status, await read_at_most(response, MAX_INFO_BYTES)


def _flush_timeout(text: str) -> float:
    """Return the seconds for which a busy worker may wait before it flushes; negative values mean -1."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.inf
    # the negation is also true for a NaN
    if not seconds <= _MAX_FLUSH_TIMEOUT_S:
        message = f"`timeout` must be a number of seconds up to {_MAX_FLUSH_TIMEOUT_S:g}"
        raise ApiError(400, message, param="timeout")
    return max(seconds, -1.0)
