"""The report of one run: what one system did under one load, once."""

from __future__ import annotations

from typing import Literal

from sun_sglang.bench.load.drive.stop import Ending
from sun_sglang.bench.load.metrics.distribution import Distribution
from sun_sglang.bench.load.metrics.sessions import SessionMetrics
from sun_sglang.bench.load.metrics.summary import Metrics
from sun_sglang.bench.load.metrics.window import Window
from sun_sglang.strict import Strict

Caches = Literal["fresh", "flushed", "other_prompts", "as_found"]
"""The prefix caches before a run: of servers that were just started; emptied; perhaps full, of prompts that this run
does not send; or of a server that was in use, as they were."""


class Counts(Strict):
    """Requests of the whole run, the warm-up included.

    Attributes:
        preflight: sent before the run, one for each task; not in the other counts.
        sent: sent in the run.
        succeeded: answered whole.
        failed: failed.
        cut_off: still in flight when the run ended; cancelled then.
    """

    preflight: int
    sent: int
    succeeded: int
    failed: int
    cut_off: int


class ErrorReport(Strict):
    """Failed requests of one kind.

    Attributes:
        kind: such as `http_429`, `timeout`, `connection`, `stream`, `wrong_length`.
        count: how many, in the whole run.
        in_window: how many of them in the window.
        tasks: how many of each task, in the whole run.
        first_message: the reason of the first.
    """

    kind: str
    count: int
    in_window: int
    tasks: dict[str, int]
    first_message: str


class ClientReport(Strict):
    """The load of the client itself in the window.

    Attributes:
        cpu_share: CPU time of this process as a share of one core; None where it was not sampled.
        lag: by how much this process was late: its timers, and in an open loop the sending of each request. None where
            it was not sampled.
    """

    cpu_share: float | None
    lag: Distribution | None


class TaskReport(Strict):
    """One task.

    Attributes:
        sent: requests sent in the whole run.
        offered_share: its share of the requests that were offered in the window: the realised mix.
        metrics: its metrics.
    """

    sent: int
    offered_share: float | None
    metrics: Metrics


class RunReport(Strict):
    """One run.

    Attributes:
        repetition: its number, from 0.
        prompt_seed: seed of the tokens of its prompts.
        caches: the prefix caches before it.
        started: date and time of its start, UTC.
        ending: how it ended; `cut_short`: the user stopped it, and the window is shorter than planned.
        valid: whether the numbers may be used; `problems` says why not.
        problems: why the run is not valid.
        notes: what a reader of the numbers should know.
        window: what was measured, in seconds after the start of the run.
        counts: requests of the whole run.
        total: the metrics over all tasks.
        tasks: each task, in the order of the ranking.
        fairness: Jain's index over the tasks' `achieved_ratio`; 1 is fair.
        errors: failed requests by kind, the most frequent first.
        client: the load of the client itself.
        sessions: the metrics of sessions, of agent workloads; None for others, and in files of earlier versions.
    """

    repetition: int
    prompt_seed: int
    caches: Caches
    started: str
    ending: Ending
    valid: bool
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    window: Window
    counts: Counts
    total: Metrics
    tasks: dict[str, TaskReport]
    fairness: float | None
    errors: tuple[ErrorReport, ...]
    client: ClientReport
    sessions: SessionMetrics | None = None

    @property
    def achieved_ratio(self) -> float | None:
        """Completed by offered sessions, where it has these; else by offered requests. None where none was offered."""
        return (self.total if self.sessions is None else self.sessions).achieved_ratio
