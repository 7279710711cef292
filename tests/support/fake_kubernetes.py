"""The part of Kubernetes' API server that discovery uses: list and watch of pods, with every way in which they end.

What it does is from Kubernetes' documentation (API concepts: "Efficient detection of changes"), not from a server.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from kubernetes import client

Raw = dict[str, Any]


class FakeKubernetes:
    """The API server. A test changes its pods and ends its watches.

    Attributes:
        watches: the query of each watch so far.
        lists: the query of each list so far.
        status: answer every request with this HTTP status; 0 for none.
        down: end the connection of every request.
    """

    def __init__(self) -> None:
        self.watches: list[dict[str, str]] = []
        self.lists: list[dict[str, str]] = []
        self.status = 0
        self.down = False
        self.url = ""
        self._pods: dict[str, Raw] = {}
        self._version = 100
        self._history: list[tuple[int, Raw]] = []
        self._oldest = 0
        self._open: set[asyncio.Queue[Raw | None]] = set()
        self._hidden = False

    def api(self) -> client.CoreV1Api:
        """Return a client of this server."""
        return client.CoreV1Api(client.ApiClient(client.Configuration(host=self.url)))

    @property
    def watching(self) -> int:
        """The number of watches that are open."""
        return len(self._open)

    def put(self, pod: Raw) -> None:
        """Add a pod or change it."""
        name = pod["metadata"]["name"]
        self._record("MODIFIED" if name in self._pods else "ADDED", pod)
        self._pods[name] = self._history[-1][1]["object"]

    def mark_deleted(self, name: str) -> None:
        """Begin to delete a pod, as `kubectl delete` and a smaller ReplicaSet do."""
        pod = copy.deepcopy(self._pods[name])
        pod["metadata"]["deletionTimestamp"] = "2026-11-28T12:00:00Z"
        self.put(pod)

    def remove(self, name: str) -> None:
        """Remove a pod that has ended."""
        self._record("DELETED", self._pods.pop(name))

    def bookmark(self) -> int:
        """Send a bookmark on every watch; return its version."""
        self._version += 1
        event = {"type": "BOOKMARK", "object": {"kind": "Pod", "metadata": {"resourceVersion": str(self._version)}}}
        self._send(event)
        return self._version

    def compact(self) -> None:
        """Forget all events so far: an older version answers 410."""
        self._oldest = self._version
        self._history.clear()

    def expire(self) -> None:
        """End every watch with an ERROR event, as etcd's compaction does."""
        self._send(_gone())
        self.end_watches()

    def close(self) -> None:
        """End every watch, and refuse later ones."""
        self.down = True
        self.end_watches()

    def end_watches(self) -> None:
        """End every watch, as after `timeoutSeconds`."""
        self._send(None)

    @asynccontextmanager
    async def unseen(self) -> AsyncIterator[None]:
        """Make changes that no watch shows: the network loses them."""
        self._hidden = True
        yield
        self._hidden = False

    def _record(self, kind: str, pod: Raw) -> None:
        self._version += 1
        pod = copy.deepcopy(pod)
        pod["metadata"]["resourceVersion"] = str(self._version)
        event = {"type": kind, "object": pod}
        self._history.append((self._version, event))
        if not self._hidden:
            self._send(event)

    def _send(self, event: Raw | None) -> None:
        for queue in self._open:
            queue.put_nowait(event)

    async def handle(self, http: web.Request) -> web.StreamResponse:
        """GET /api/v1/namespaces/NS/pods."""
        query = dict(http.query)
        if self.down:
            assert http.transport is not None
            http.transport.abort()
            return web.Response()
        if self.status:
            return web.json_response({"kind": "Status", "code": self.status}, status=self.status)
        if query.get("watch") == "True":
            self.watches.append(query)
            return await self._watch(http, query)
        self.lists.append(query)
        return self._list(query)

    def _list(self, query: dict[str, str]) -> web.Response:
        begin, limit = int(query.get("continue") or 0), int(query.get("limit") or 0)
        items = [pod for pod in self._pods.values() if _matches(pod, query["labelSelector"])]
        end = begin + limit if limit else len(items)
        metadata = {"resourceVersion": str(self._version), "continue": str(end) if end < len(items) else ""}
        return web.json_response({"kind": "PodList", "metadata": metadata, "items": items[begin:end]})

    async def _watch(self, http: web.Request, query: dict[str, str]) -> web.StreamResponse:
        since = int(query["resourceVersion"])
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        # before anything is awaited: nothing that happens from here on is missed
        queue: asyncio.Queue[Raw | None] = asyncio.Queue()
        if since < self._oldest:
            queue.put_nowait(_gone())
            queue.put_nowait(None)
        for version, event in self._history:
            if version > since:
                queue.put_nowait(event)
        self._open.add(queue)
        try:
            await response.prepare(http)
            while (event := await queue.get()) is not None:
                if event["type"] in ("BOOKMARK", "ERROR") or _matches(event["object"], query["labelSelector"]):
                    line = json.dumps(event).encode() + b"\n"
                    # an event comes in two chunks, as long ones do
                    await response.write(line[:20])
                    await response.write(line[20:])
        except ConnectionError:
            pass
        finally:
            self._open.discard(queue)
        return response


@asynccontextmanager
async def fake_kubernetes() -> AsyncIterator[FakeKubernetes]:
    """Run the server until the end of the block."""
    fake = FakeKubernetes()
    app = web.Application()
    app.router.add_get("/api/v1/namespaces/{namespace}/pods", fake.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    fake.url = f"http://{host}:{port}"
    try:
        yield fake
    finally:
        fake.close()
        await runner.cleanup()


def pod(
    name: str,
    pool: str = "base",
    *,
    address: str | None = "10.0.0.1",
    uid: str = "",
    instance: str = "sun",
    phase: str = "Running",
) -> Raw:
    """Return a pod of a deployment, as the API server shows it."""
    labels = {"app.kubernetes.io/instance": instance, "app.kubernetes.io/component": "worker", "sun-sglang/pool": pool}
    status = {"phase": phase} | ({} if address is None else {"podIP": address})
    return {"metadata": {"name": name, "uid": uid or f"uid-{name}", "labels": labels}, "status": status}


def _gone() -> Raw:
    status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version: 1 (2)"}
    return {"type": "ERROR", "object": status}


def _matches(found: Raw, selector: str) -> bool:
    wanted = dict(term.split("=") for term in selector.split(","))
    return wanted.items() <= found["metadata"]["labels"].items()
