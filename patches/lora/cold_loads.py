"""Count and time the copies of LoRA adapters into slots, for the worker's page of adapters.

SGLang keeps loaded adapters in host memory, and copies those of a batch into one of `max_loras_per_batch` slots before
the batch runs (`srt/lora/lora_manager.py`: `fetch_new_loras`). It reports neither. The scheduler writes the numbers
into a file that it shares with the HTTP process (`SharedSnapshot`) when they change. So a request to the page costs the
scheduler nothing, and gets its answer while a long batch runs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Final

from sun_sglang.contracts.adapters_report import AdaptersReport, ColdLoads
from sun_sglang.files.shared_snapshot import SnapshotWriter
from sun_sglang.patches.patch import Patch
from sun_sglang.patches.versions import on

ADAPTERS_FILE_VARIABLE: Final = "SUN_ADAPTERS_FILE"
"""Path of the shared file, for every process that the server starts."""

_MANAGER = "sglang.srt.lora.lora_manager.LoRAManager"
_LEDGER = "sun_cold_loads"  # attribute of SGLang's manager
_WHY = "SGLang does not report which adapters are in slots, nor how long a request waited for its own"
_REMOVABLE_WHEN = "when SGLang reports the adapters in slots, and the number and time of copies into slots"


class Ledger:
    """The cold loads of one scheduler, and the adapters in its slots.

    Args:
        write: publishes a report.
    """

    def __init__(self, write: Callable[[AdaptersReport], None]) -> None:
        self._write = write
        self._cold: dict[str, ColdLoads] = {}

    def note(self, resident: tuple[str, ...], loaded: tuple[str, ...] = (), seconds: float = 0.0) -> None:
        """Record a change of the slots, and publish.

        Args:
            resident: names of the adapters in slots.
            loaded: names of those that were copied.
            seconds: time of these copies, which is divided evenly among them.
        """
        for name in loaded:
            known = self._cold.get(name, ColdLoads(loads=0, seconds=0.0))
            self._cold[name] = ColdLoads(loads=known.loads + 1, seconds=known.seconds + seconds / len(loaded))
        self._write(AdaptersReport(resident=resident, cold=self._cold))


def time_cold_loads(fetch: Callable[..., Any], manager: Any, *args: Any, **kwargs: Any) -> Any:
    """Run SGLang's preparation of a batch's adapters, and record the copies that it made."""
    before = set(manager.memory_pool.uid_to_buffer_id)
    start = time.perf_counter()
    result = fetch(manager, *args, **kwargs)
    seconds = time.perf_counter() - start
    after = manager.memory_pool.uid_to_buffer_id
    if after.keys() != before:
        loaded = tuple(_name(manager, uid) for uid in after if uid is not None and uid not in before)
        _ledger(manager).note(_resident(manager), loaded, seconds)
    return result


def note_unload(_result: Any, manager: Any, *_args: Any, **_kwargs: Any) -> None:
    """Record that an adapter left the worker, and its slot with it."""
    _ledger(manager).note(_resident(manager))


def _resident(manager: Any) -> tuple[str, ...]:
    # None is the base itself, which takes a slot too
    return tuple(sorted(_name(manager, uid) for uid in manager.memory_pool.uid_to_buffer_id if uid is not None))


def _name(manager: Any, uid: str) -> str:
    reference = manager.lora_refs.get(uid)
    return str(reference.lora_name) if reference is not None else uid


def _ledger(manager: Any) -> Ledger:
    ledger: Ledger | None = getattr(manager, _LEDGER, None)
    if ledger is None:
        ledger = Ledger(_publisher())
        setattr(manager, _LEDGER, ledger)
    return ledger


def _publisher() -> Callable[[AdaptersReport], None]:
    path = os.environ.get(ADAPTERS_FILE_VARIABLE)
    if path is None or not _writes_the_report():
        return lambda _report: None
    writer = SnapshotWriter(path)
    return lambda report: writer.write(report.model_dump_json().encode())


def _writes_the_report() -> bool:
    """Return whether this scheduler is the one that reports: all ranks of a model copy have the same slots.

    Data-parallel ranks have slots of their own, and SGLang loads no adapters into such a server while it runs.
    """
    from sglang.srt.distributed.parallel_state import get_pp_group, get_tensor_model_parallel_rank
    from sglang.srt.runtime_context import get_parallel

    first = get_tensor_model_parallel_rank() == 0 and get_pp_group().is_first_rank
    return bool(first and get_parallel().dp_size == 1)


FETCH = Patch(
    name="cold_loads.fetch",
    target=f"{_MANAGER}.fetch_new_loras",
    parameters=(("self", "new_loras", "running_loras"),),
    kind="around",
    hook=time_cold_loads,
    why=_WHY,
    versions=on("counts and times the copies of adapters into slots"),
    removable_when=_REMOVABLE_WHEN,
)
UNLOAD = Patch(
    name="cold_loads.unload",
    target=f"{_MANAGER}.unload_lora_adapter",
    parameters=(("self", "lora_ref"),),
    kind="after",
    hook=note_unload,
    why=_WHY,
    versions=on("reports that an unloaded adapter has no slot"),
    removable_when=_REMOVABLE_WHEN,
)
