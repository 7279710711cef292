"""The router's `/tasks`: what each task has, and what it still lacks.

The router produces this report, merges it with those of its sibling processes, and the launcher and the CLI read it.
A reader ignores unknown keys, since a deployment may run another version of this package.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import BaseModel, ConfigDict


class _Report(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class WorkerModules(_Report):
    """The modules of a prefill worker that takes any, by its last report.

    Attributes:
        loaded: revision of the module whose weights are loaded.
        own: revision of the model with which the worker started.
        held: revisions of the modules in host memory.
        queued: requests that wait for a batch, by the revision of their module.
        host_bytes: bytes of the modules in host memory.
        changes: changes since the worker started.
        change_seconds: expected time of a change; 0 where none was measured.
    """

    loaded: str
    own: str
    held: tuple[str, ...] = ()
    queued: Mapping[str, int] = {}
    host_bytes: int = 0
    changes: int = 0
    change_seconds: float = 0.0


class DecodeStepsReport(_Report):
    """The decode steps of a worker since it started, as the router has read them.

    Attributes:
        steps: number of steps.
        seconds: their duration, in all.
        requests: the requests of their batches, in all.
        context: the context of their batches, in tokens, in all; from samples.
        kv_tokens: tokens of KV that fit on the worker.
    """

    steps: float
    seconds: float
    requests: float
    context: float
    kv_tokens: int


class OfferedReport(_Report):
    """The decode work that clients have offered to a decode pool since the router started, at arrival.

    Attributes:
        answers: number of answers.
        tokens: their expected output tokens.
        context_tokens: the context that their steps are expected to read (`autoscaling/demand.py`).
        context_squares: the same sum over the square of the context.
    """

    answers: float
    tokens: float
    context_tokens: float
    context_squares: float = 0.0


class WorkerReport(_Report):
    """One worker.

    Attributes:
        name: its name in the fleet file.
        url: where it listens.
        state: `absent`, `registering`, `ready`, `draining` or `refused`.
        reason: why it is not ready; empty if it is.
        incarnation: identifies the start of its process; None while its card has not been read.
        in_flight: its requests, from any client or router process.
        tokens: outstanding tokens on it, of those requests.
        steps: the decode steps that it measured; None for a prefill worker, or before it reported any.
        modules: the modules between which it changes; None for a worker that takes none, or has not reported any.
        agreed: whether every process of the router reports this state and this start of it. A change reaches all of
            them within half a second.
    """

    name: str
    url: str
    state: str
    reason: str
    incarnation: str | None
    in_flight: int
    tokens: int = 0
    steps: DecodeStepsReport | None = None
    modules: WorkerModules | None = None
    agreed: bool = True


class PoolReport(_Report):
    """One side of a task.

    Attributes:
        pool: name of the pool.
        model: the pool's model directory or name.
        workers: the pool's workers.
    """

    pool: str
    model: str
    workers: tuple[WorkerReport, ...]


class ProvenPath(_Report):
    """Two workers, by name, between which a canary passed."""

    prefill: str
    decode: str


class UnprovenPath(_Report):
    """Two workers between which no canary has passed.

    Attributes:
        prefill: name of the prefill worker.
        decode: name of the decode worker.
        why: why the last canary failed, or why the router sends none.
        times: how many canaries in a row failed with this reason.
        refused: the two workers must not be paired, so the router sends no canary.
    """

    prefill: str
    decode: str
    why: str
    times: int
    refused: bool


class AdapterReport(_Report):
    """The adapter of a task.

    Attributes:
        name: its name on the workers, which has the revision of its content.
        directory: where the workers read it.
        rank: the largest rank among its layers.
        fingerprint: whether its effect was recorded when it was made.
    """

    name: str
    directory: str
    rank: int
    fingerprint: bool


class ModuleReport(_Report):
    """The module of a task, of its own.

    Attributes:
        revision: revision of its weights, and its name on the workers.
        directory: where the workers read it.
        size: bytes of its weights.
    """

    revision: str
    directory: str
    size: int


class UnprovenAdapter(_Report):
    """A prefill worker that cannot serve a task's adapter.

    Attributes:
        worker: name of the worker.
        adapter: name of the adapter.
        why: why it failed last, or why the router does not load it; empty before the first attempt has ended.
        times: how many times in a row it failed with this reason.
        refused: the worker cannot have the adapter, so the router does not load it.
    """

    worker: str
    adapter: str
    why: str
    times: int
    refused: bool


class UnprovenModule(_Report):
    """A prefill worker that cannot serve a task's module.

    Attributes:
        worker: name of the worker.
        module: revision of the module.
        why: why it failed last, or why the router does not give it; empty before the first attempt has ended.
        times: how many times in a row it failed with this reason.
        refused: the worker cannot have the module, so the router does not give it.
    """

    worker: str
    module: str
    why: str
    times: int
    refused: bool


class TaskReport(_Report):
    """One task.

    Attributes:
        ready: at least one path is proven.
        prefill: the pool that prefills the task's prompts.
        decode: the pool that decodes the task's answers.
        paths: the proven paths.
        unproven_paths: the paths that still need a canary.
        queued: answers that wait for a slot.
        in_flight: answers that have not ended.
        namespace: the cache namespace of the task's prompts; None while no prefill worker is admitted.
        adapter: the adapter with which the task is served; None without one.
        unproven_adapters: the prefill workers that cannot serve the task's adapter yet.
        module: the module with which the task is served in place of its pool's model; None without one.
        unproven_modules: the prefill workers that cannot serve the task's module yet.
        moving: a change of the task is not served yet.
    """

    ready: bool
    prefill: PoolReport
    decode: PoolReport
    paths: tuple[ProvenPath, ...]
    unproven_paths: tuple[UnprovenPath, ...]
    queued: int
    in_flight: int
    namespace: str | None
    adapter: AdapterReport | None = None
    unproven_adapters: tuple[UnprovenAdapter, ...] = ()
    module: ModuleReport | None = None
    unproven_modules: tuple[UnprovenModule, ...] = ()
    moving: bool = False


class TasksReport(_Report):
    """The whole report.

    Attributes:
        ready: every task has a proven path.
        draining: the router accepts no new requests.
        tasks: each task by its name.
        offered: the decode work that clients have offered, by decode pool; None where a process of the router did not
            report its own.
    """

    ready: bool
    draining: bool
    tasks: dict[str, TaskReport]
    offered: Mapping[str, OfferedReport] | None = None

    @property
    def workers(self) -> dict[str, WorkerReport]:
        """Every worker in a pool of a task, by name."""
        sides = (side for task in self.tasks.values() for side in (task.prefill, task.decode))
        return {worker.name: worker for side in sides for worker in side.workers}

    @property
    def unproven_paths(self) -> list[UnprovenPath]:
        """The unproven paths of all tasks."""
        return [path for task in self.tasks.values() for path in task.unproven_paths]

    @property
    def unproven_adapters(self) -> list[UnprovenAdapter]:
        """The adapters of all tasks that a worker cannot serve yet; once for each worker and adapter."""
        found = {(one.worker, one.adapter): one for task in self.tasks.values() for one in task.unproven_adapters}
        return list(found.values())

    @property
    def unproven_modules(self) -> list[UnprovenModule]:
        """The modules of all tasks that a worker cannot serve yet; once for each worker and module."""
        found = {(one.worker, one.module): one for task in self.tasks.values() for one in task.unproven_modules}
        return list(found.values())

    @property
    def all_ready(self) -> bool:
        """Whether every worker is ready, and every path and all weights of tasks on a worker are proven."""
        unproven = (self.unproven_paths, self.unproven_adapters, self.unproven_modules)
        return self.ready and not any(unproven) and not self._unready

    @property
    def missing(self) -> list[str]:
        """The obstacles to a ready deployment, one line each: workers that are not ready, and what is unproven."""
        workers = [f"`{w.name}` is {w.state}" + (f" ({w.reason})" if w.reason else "") for w in self._unready]
        paths = {(p.prefill, p.decode, p.why) for p in self.unproven_paths}
        return [
            *workers,
            *(f"no canary from `{a}` to `{b}`" + (f" ({why})" if why else "") for a, b, why in sorted(paths)),
            *_missing_weights("adapter", ((one.worker, one.adapter, one.why) for one in self.unproven_adapters)),
            *_missing_weights("module", ((one.worker, one.module, one.why) for one in self.unproven_modules)),
        ]

    @property
    def refused(self) -> list[tuple[str, str]]:
        """The workers that the router refuses, each with its reason."""
        return [(w.name, w.reason) for w in self.workers.values() if w.state == "refused"]

    @property
    def _unready(self) -> list[WorkerReport]:
        return [w for w in self.workers.values() if w.state != "ready"]


def _missing_weights(kind: str, unproven: Iterable[tuple[str, str, str]]) -> list[str]:
    """Return one line for each worker with unproven weights: there may be hundreds, and mostly for one reason.

    Args:
        kind: the kind of the weights.
        unproven: worker, name of the weights, and reason.
    """
    by_worker: dict[str, list[tuple[str, str]]] = {}
    for worker, name, why in unproven:
        by_worker.setdefault(worker, []).append((name, why))
    lines = []
    for worker, found in by_worker.items():
        # one with a reason, where there is one
        name, why = max(found, key=lambda one: bool(one[1]))
        what = f"{kind} `{name}`" if len(found) == 1 else f"{len(found)} {kind}s such as `{name}`"
        lines.append(f"{what} not proven on `{worker}`" + (f" ({why})" if why else ""))
    return lines
