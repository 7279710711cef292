"""Request tokens, text and token counts from the workers, which have the tasks' tokenizers. I/O."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import aiohttp
import orjson

from sun_sglang.contracts.token_count import TOKEN_COUNT_PATH
from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.dispatch.legs.pair_request import worker_model
from sun_sglang.router.dispatch.outcome.worker_refusal import refusal_of
from sun_sglang.router.errors import ApiError
from sun_sglang.router.protocol.fields.value_types import INT32_MAX
from sun_sglang.router.protocol.worker_replies import count_at, parse_json
from sun_sglang.router.transport.http_session import describe_error, read_at_most
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.worker import Worker

# a token id takes about seven bytes, and a prompt of a million tokens is the longest
MAX_REPLY_BYTES = 1 << 24
# requests that may wait for one worker; a worker answers hundreds in a second
MOST_WAITING = 256


class TokenizerClient:
    """Sends requests to the prefill workers of tasks, one at a time to each worker.

    SGLang tokenizes on the event loop of its server. A caller bounds the length of a prompt
    (`serving/admission/length_check.py`), and other requests get their turn between two prompts.

    Args:
        session: sends the requests.
        registry: the tasks' workers.
        deadlines: `token_count`.
    """

    def __init__(self, session: aiohttp.ClientSession, registry: Registry, deadlines: Deadlines) -> None:
        self._session = session
        self._registry = registry
        self._deadlines = deadlines
        self._turns: dict[str, asyncio.Lock] = {}
        self._waiting: Counter[str] = Counter()

    async def post(self, task: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return a worker's reply.

        Args:
            task: name of the task.
            path: the worker's endpoint.
            body: without `model`.

        Raises:
            ApiError: 400, the worker refused the request; 429, too many wait; 502 or 503, no worker replied.
        """
        pairs = self._registry.usable(task)
        if not pairs:
            raise ApiError(503, f"no worker can serve task `{task}` now", code="no_worker")
        worker = min((pair.prefill for pair in pairs), key=lambda w: (self._waiting[w.name], w.load.total_requests))
        if self._waiting[worker.name] >= MOST_WAITING:
            message = f"too many requests for tokens of task `{task}` are waiting; try again later"
            raise ApiError(429, message, code="queue_full")
        turn = self._turns.setdefault(worker.name, asyncio.Lock())
        self._waiting[worker.name] += 1
        try:
            async with asyncio.timeout(self._deadlines.token_count), turn:
                status, reply = await self._send(worker, path, {**body, "model": worker_model(task)})
        except (aiohttp.ClientError, OSError) as e:
            message = f"a worker of task `{task}` does not answer {path.partition('?')[0]}: {describe_error(e)}"
            raise ApiError(503, message, code="no_worker") from e
        finally:
            self._waiting[worker.name] -= 1
        parsed = parse_json(reply)
        if status == 400:
            raise refusal_of("prefill", status, reply)
        if status != 200 or not isinstance(parsed, dict):
            raise ApiError(502, f"a worker of task `{task}` answered {status} to {path.partition('?')[0]}")
        return parsed

    async def count(self, task: str, body: Mapping[str, Any]) -> int:
        """Return the exact number of tokens of a prompt, which a worker counts off its event loop.

        Args:
            task: name of the task.
            body: `prompt`, or `messages` with what the chat template needs.

        Raises:
            ApiError: as `post`.
        """
        return count_at(await self.post(task, f"{TOKEN_COUNT_PATH}?most={INT32_MAX}", body), "tokens")

    async def _send(self, worker: Worker, path: str, body: Mapping[str, Any]) -> tuple[int, bytes]:
        """Return the status and the body of a worker's reply."""
        headers = {**worker.spec.headers, "Content-Type": "application/json"}
        # as a stream: aiohttp copies bytes to the socket in one step of the event loop
        data = BytesIO(orjson.dumps(body))
        async with self._session.post(
            worker.spec.url + path, data=data, headers=headers, allow_redirects=False
        ) as response:
            return response.status, await read_at_most(response, MAX_REPLY_BYTES)
