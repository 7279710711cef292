"""The worker kinds that exist. A new kind is one line here, and one value of `Backend` in `sun_sglang/topology.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sun_sglang.launch.planning.worker_kinds.emulated import EmulatedWorkers
from sun_sglang.launch.planning.worker_kinds.sglang import SglangWorkers
from sun_sglang.launch.planning.worker_kinds.worker_kind import WorkerKind
from sun_sglang.topology import Backend

_ALL: Final[tuple[WorkerKind, ...]] = (SglangWorkers(), EmulatedWorkers())
WORKER_KINDS: Final[Mapping[Backend, WorkerKind]] = {kind.name: kind for kind in _ALL}
