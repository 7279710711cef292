"""List and watch a deployment's pods at the API server. I/O: blocking calls, in a thread of their own.

What the server may do, and what follows (Kubernetes, "Efficient detection of changes"; `kubernetes.watch.Watch`):

| the server | this module |
|---|---|
| ends the watch after `timeout_seconds` | watches again from the last resource version |
| sends a bookmark | the library takes its resource version |
| answers 410, or sends an ERROR event with 410 | lists again at once: the version is too old |
| ends the connection, or answers another error | lists again after a pause that grows; the pods stay as they were |
| sends nothing any more | the read timeout ends the watch |

With `timeout_seconds` the library neither repeats a watch nor hides a 410 (`Watch.stream: disable_retries`).
"""

from __future__ import annotations

import http
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sun_sglang.kubernetes.discovery.pods import Event, Pod, parse_pod

if TYPE_CHECKING:
    from kubernetes.client import CoreV1Api

_PAGE = 500
_EVENTS = ("ADDED", "MODIFIED", "DELETED")


@dataclass(frozen=True)
class Timing:
    """Times of the watch in seconds.

    Attributes:
        connect: limit for a connection.
        watch: how long the server keeps one watch; a list or an event that was lost is missed at most this long.
        late: how much later than that the connection may stay silent.
        pause_min: pause after a failure; it doubles.
        pause_max: the longest one.
    """

    connect: float = 5.0
    watch: int = 60
    late: float = 15.0
    pause_min: float = 0.2
    pause_max: float = 10.0


class PodWatch:
    """Reports the pods of a selector: all of them, then each event, and all of them again after a gap.

    Args:
        api: the client.
        namespace: of the pods.
        selector: as `kubectl get pods -l` takes it.
        listed: called with a complete list.
        changed: called with an event that follows it.
        failed: called with the reason of a failure; no pod has changed by it.
        timing: limits.
    """

    def __init__(
        self,
        api: CoreV1Api,
        namespace: str,
        selector: str,
        *,
        listed: Callable[[list[Pod]], None],
        changed: Callable[[Event], None],
        failed: Callable[[str], None],
        timing: Timing | None = None,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._selector = selector
        self._listed = listed
        self._changed = changed
        self._failed = failed
        self._timing = timing or Timing()
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Let `run` return after the present watch, or after the present pause at once."""
        self._stopped.set()

    def run(self) -> None:
        """List and watch until `stop`. Every failure is reported, and tried again."""
        pause = self._timing.pause_min
        version: str | None = None
        while not self._stopped.is_set():
            try:
                if version is None:
                    version = self._list()
                    pause = self._timing.pause_min
                version = self._watch(version)
            # anything that a server can cause ends up here; it must not end discovery
            except Exception as e:
                if self._stopped.is_set():
                    # the caller may be gone by now
                    return
                gone = version is not None and getattr(e, "status", None) == http.HTTPStatus.GONE
                version = None
                if gone:
                    continue
                self._failed(describe(e))
                self._stopped.wait(pause)
                pause = min(pause * 2, self._timing.pause_max)

    def _list(self) -> str:
        """Report all pods, and return the resource version that they have together."""
        pods: list[Pod] = []
        token: str | None = None
        while True:
            page = self._read_page(token)
            pods += [pod for raw in page["items"] if (pod := parse_pod(raw)) is not None]
            token = page["metadata"].get("continue") or None
            if token is None:
                self._listed(pods)
                return str(page["metadata"]["resourceVersion"])

    def _read_page(self, token: str | None) -> dict[str, Any]:
        more = {} if token is None else {"_continue": token}
        reply = self._api.list_namespaced_pod(
            self._namespace,
            label_selector=self._selector,
            limit=_PAGE,
            # the JSON itself: the library's models of some thousand pods take seconds
            _preload_content=False,
            _request_timeout=(self._timing.connect, self._timing.watch),
            **more,
        )
        try:
            page: dict[str, Any] = json.loads(reply.data)
        finally:
            reply.release_conn()
        return page

    def _watch(self, version: str) -> str:
        """Report the events since a version until the server ends the watch; return the last version."""
        from kubernetes.watch import Watch

        watch = Watch()
        events = watch.stream(
            self._api.list_namespaced_pod,
            self._namespace,
            label_selector=self._selector,
            resource_version=version,
            allow_watch_bookmarks=True,
            timeout_seconds=self._timing.watch,
            _request_timeout=(self._timing.connect, self._timing.watch + self._timing.late),
        )
        for event in events:
            if event and event["type"] in _EVENTS and (pod := parse_pod(event["raw_object"])) is not None:
                self._changed(Event(event["type"], pod))
            if self._stopped.is_set():
                watch.stop()
        return str(watch.resource_version or version)


def describe(error: Exception) -> str:
    """Return one line on a failure of the API server, with what to check where that is known."""
    status = getattr(error, "status", None)
    if status in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN):
        return f"the API server refuses ({status}): the service account needs get, list and watch of pods"
    if status:
        return f"the API server answers {status} {getattr(error, 'reason', '') or ''}".strip()
    return f"the API server does not answer: {type(error).__name__}: {str(error)[:200]}"
