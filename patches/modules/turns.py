"""Build each prefill batch of one module's requests, and change the weights between two batches.

SGLang takes the requests of a batch from `Scheduler.waiting_queue`, whatever weights they need. The hook leaves only
the requests of one module in the queue while SGLang builds a batch, and puts the others back afterwards. If another
module has its turn (`module_turns/`), it replaces the weights first. That is never while a chunked prompt is under way:
its chunks need the same weights. The KV of ended batches depends on no weights any more, so its transfers go on during
a change.

With tensor parallelism every rank runs the hook at the same steps with the same queue. The first rank decides, since
the decision depends on time, and the others learn it.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sun_sglang.contracts.module import module_in, read_module_limits
from sun_sglang.errors import CheckpointError
from sun_sglang.files.shared_snapshot import SnapshotReader, SnapshotWriter
from sun_sglang.module_turns.policy import Waiting
from sun_sglang.module_turns.turns import Turns
from sun_sglang.patches.modules.in_place import replace_weights
from sun_sglang.patches.modules.mapped import MappedModule
from sun_sglang.patches.modules.shared_files import (
    HOST_FILE_VARIABLE,
    SCHEDULED_FILE_VARIABLE,
    HostModules,
    ScheduledModules,
)
from sun_sglang.patches.patch import Patch
from sun_sglang.patches.versions import on

_LOG = logging.getLogger(__name__)
_STATE = "sun_modules"  # attribute of SGLang's scheduler
_MODULE, _SINCE = "sun_module", "sun_since"  # attributes of SGLang's requests


def build_of_one_module(build: Callable[..., Any], scheduler: Any, *args: Any, **kwargs: Any) -> Any:
    """Build the next batch of one module's requests, after a change of weights where another module has its turn."""
    turns = _of(scheduler)
    if turns is None or not turns.begin(scheduler):
        return build(scheduler, *args, **kwargs)
    before = scheduler.waiting_queue
    scheduler.waiting_queue = [req for req in before if turns.is_loaded(req)]
    try:
        plan = build(scheduler, *args, **kwargs)
    finally:
        left = set(scheduler.waiting_queue)
        known = set(before)
        others = [req for req in scheduler.waiting_queue if req not in known]
        scheduler.waiting_queue = [req for req in before if req in left or not turns.is_loaded(req)] + others
    turns.end(scheduler, plan.batch_to_run)
    return plan


class SchedulerTurns:
    """The modules of one scheduler process.

    Args:
        slo: seconds from a request's arrival until its prompt should be computed.
    """

    def __init__(self, slo: float) -> None:
        self._host = SnapshotReader(os.environ[HOST_FILE_VARIABLE])
        self._writer = SnapshotWriter(os.environ[SCHEDULED_FILE_VARIABLE])
        self._slo = slo
        self._number = 0
        self._modules: HostModules | None = None
        self._turns: Turns | None = None
        self._mapped: dict[str, MappedModule] = {}
        self._batch: tuple[int, float] | None = None
        self._reported: object = None

    def begin(self, scheduler: Any) -> bool:
        """Prepare the next batch. Return False if the worker was given no module, so that SGLang needs no help."""
        now = time.monotonic()
        self._read_host_modules()
        if self._turns is None:
            return False
        if self._batch is not None:
            tokens, started = self._batch
            self._turns.note_batch(tokens, now - started)
            self._batch = None
        queue = scheduler.waiting_queue
        if queue and scheduler.chunked_req is None:
            waiting = self._waiting(queue, now)
            if any(one.module != self._turns.loaded for one in waiting):
                chosen = self._agree(scheduler, self._choose(waiting, now))
                if chosen != self._turns.loaded:
                    self._change(scheduler, chosen)
        return True

    def end(self, scheduler: Any, batch: Any) -> None:
        """Note the batch that SGLang built, None if it built none, and publish what changed."""
        if batch is not None:
            assert all(self.is_loaded(req) for req in batch.reqs), "a batch needs one module"
            self._batch = int(batch.extend_num_tokens or 0), time.monotonic()
        self._report(scheduler.waiting_queue)

    def is_loaded(self, req: Any) -> bool:
        """Return whether a request needs the weights that are loaded."""
        assert self._turns is not None, "called after `begin`"
        return self._module(req) == self._turns.loaded

    def _module(self, req: Any) -> str:
        assert self._modules is not None
        found: str | None = getattr(req, _MODULE, None)
        if found is None:
            found = module_in(req.extra_key) or self._modules.own
            setattr(req, _MODULE, found)
        return found

    def _waiting(self, queue: Iterable[Any], now: float) -> list[Waiting]:
        """Return what waits for each module, in the order of the queue."""
        found: dict[str, Waiting] = {}
        for req in queue:
            module, tokens = self._module(req), len(req.origin_input_ids)
            since = getattr(req, _SINCE, None)
            if since is None:
                since = now
                setattr(req, _SINCE, now)
            one = found.get(module)
            found[module] = (
                Waiting(module, since, 1, tokens)
                if one is None
                else Waiting(module, min(one.since, since), one.requests + 1, one.tokens + tokens)
            )
        return list(found.values())

    def _choose(self, waiting: Iterable[Waiting], now: float) -> str:
        """Return the module that has its turn, among those that the worker can load."""
        assert self._turns is not None
        assert self._modules is not None
        loaded, held = self._turns.loaded, self._modules.held
        # A client has left the requests of the others, so that their module gave way, and their end is on its way here.
        able = [one for one in waiting if one.module == loaded or one.module in held]
        return self._turns.choose(able, now) if able else loaded

    def _agree(self, scheduler: Any, chosen: str) -> str:
        """Return the choice of the first rank."""
        if scheduler.tp_size == 1:
            return chosen
        import torch

        # a revision is 16 hex characters
        value = torch.tensor([int(chosen, 16) - (1 << 63)], dtype=torch.int64)
        group = scheduler.tp_group
        torch.distributed.broadcast(value, src=group.first_rank, group=group.cpu_group)
        return f"{int(value.item()) + (1 << 63):016x}"

    def _change(self, scheduler: Any, module: str) -> None:
        assert self._turns is not None
        begun = time.monotonic()
        runner = scheduler.tp_worker.model_runner
        try:
            mapped = self._map(module, pinned=runner.device == "cuda")
        except (OSError, CheckpointError) as e:
            if scheduler.tp_size > 1:
                # other ranks may have mapped it
                raise
            # its copy was removed since the last read of `HostModules`: the clients of its requests have left
            _LOG.warning("no change to module %s: its copy cannot be mapped (%s)", module, e)
            return
        replace_weights(runner, mapped)
        now = time.monotonic()
        self._turns.note_change(module, now - begun, now)

    def _map(self, module: str, *, pinned: bool) -> MappedModule:
        assert self._modules is not None
        found = self._mapped.get(module)
        if found is None:
            found = self._mapped[module] = MappedModule(Path(self._modules.root) / module, pinned=pinned)
        return found

    def _read_host_modules(self) -> None:
        if self._host.number() == self._number:
            return
        self._number = self._host.number()
        self._modules = modules = HostModules.model_validate_json(self._host.read())
        if self._turns is None:
            self._turns = Turns(modules.own, slo=self._slo, now=time.monotonic())
        for revision in [revision for revision in self._mapped if revision not in modules.held]:
            self._mapped.pop(revision).close()

    def _report(self, queue: Iterable[Any]) -> None:
        """Publish what changed."""
        assert self._turns is not None
        queued = Counter(map(self._module, queue))
        state = self._turns.loaded, queued
        if state != self._reported:
            self._reported = state
            content = ScheduledModules(
                loaded=self._turns.loaded,
                queued=queued,
                changed=self._turns.changed,
                change_seconds=self._turns.pace.change,
                tokens_per_second=self._turns.pace.tokens,
            )
            self._writer.write(content.model_dump_json().encode())


def _of(scheduler: Any) -> SchedulerTurns | None:
    """Return the modules of a scheduler; None on a worker that serves its own model alone."""
    if not hasattr(scheduler, _STATE):
        limits = read_module_limits(os.environ)
        setattr(scheduler, _STATE, None if limits is None else SchedulerTurns(limits.ttft_slo))
    state: SchedulerTurns | None = getattr(scheduler, _STATE)
    return state


PATCH = Patch(
    name="turns",
    target="sglang.srt.managers.scheduler.Scheduler.get_new_batch_prefill",
    parameters=(("self", "running_batch"),),
    kind="around",
    hook=build_of_one_module,
    why="SGLang would compute the prompts of every module on the weights that are loaded",
    versions=on("builds each prefill batch of one module's requests, and changes the weights between two batches"),
    removable_when="when SGLang serves several checkpoints of one architecture by turns",
)
