"""Take a worker out of the rotation until its card and a canary pass."""

from __future__ import annotations

from sun_sglang.router.observability.log import Log
from sun_sglang.router.observability.metrics import Metrics
from sun_sglang.router.workers.registry import Registry


class Ejector:
    """Ejects workers whose requests failed; the prober and canaries bring them back.

    Args:
        registry: holds the workers.
        metrics: counts ejections.
        log: reports them.
    """

    def __init__(self, registry: Registry, metrics: Metrics, log: Log) -> None:
        self._registry = registry
        self._metrics = metrics
        self._log = log
        self._closed = False

    def eject(self, name: str, reason: str, *, gone: bool = False) -> None:
        """Eject a worker. Do nothing if it is out of the rotation already.

        Args:
            name: of the worker.
            reason: for humans.
            gone: its requests in flight are lost.
        """
        worker = self._registry.workers.get(name)
        if self._closed or worker is None or worker.card is None:
            return
        self._metrics.ejections.labels(name).inc()
        self._log.event("worker_ejected", worker=name, why=reason)
        self._registry.eject(name, reason, gone=gone)

    def close(self) -> None:
        """Eject no more workers: the router stops and ends all requests itself."""
        self._closed = True
