"""The parts of a running deployment that a restart uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from sun_sglang.launch.planning.kv_transfer import KvTransfer
from sun_sglang.launch.router_client import RouterClient
from sun_sglang.launch.state import Phase
from sun_sglang.launch.supervision.readiness import Limits, Supervised


class Restartable(Supervised, Protocol):
    """The part of a supervised process that a restart uses."""

    @property
    def restart_pending(self) -> bool: ...  # noqa: D102 - the start that `restart` asked for has not begun

    async def restart(self, grace: float) -> None: ...  # noqa: D102 - end the present start; the next one follows


class Launched(NamedTuple):
    """One deployment, as its launcher knows it.

    Attributes:
        processes: the launcher's workers by name.
        phase: returns the deployment's phase.
        connect: returns a client of the router.
        limits: when supervision gives up.
        transfer: how KV goes from prefill to decode workers.
        logs: directory of the logs.
    """

    processes: Mapping[str, Restartable]
    phase: Callable[[], Phase]
    connect: Callable[[], RouterClient]
    limits: Limits
    transfer: KvTransfer
    logs: Path
