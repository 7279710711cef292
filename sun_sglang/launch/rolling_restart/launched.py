"""The parts of a running deployment that a restart uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from sun_sglang.launch.planning.kv_transfer import KvTransfer
from sun_sglang.launch.router_client import RouterClient
from sun_sglang.launch.state import Phase
from sun_sglang.launch.supervision.readiness import Limits
from sun_sglang.launch.supervision.supervised_process import SupervisedProcess


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

    processes: Mapping[str, SupervisedProcess]
    phase: Callable[[], Phase]
    connect: Callable[[], RouterClient]
    limits: Limits
    transfer: KvTransfer
    logs: Path
