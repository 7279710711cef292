"""Report answers that go on elsewhere: metrics, log lines, and the record on the ticket."""

from __future__ import annotations

from sun_sglang.router.dispatch.attempt import Attempt
from sun_sglang.router.dispatch.failover.losses import Loss, Replay
from sun_sglang.router.dispatch.running_attempts import RunningAttempts
from sun_sglang.router.observability.log import Log
from sun_sglang.router.observability.metrics import Metrics


class ReplayReports:
    """Counts and logs each time that an answer goes on elsewhere.

    Args:
        attempts: for the time.
        metrics: counts replays, their tokens, and the silence that clients see.
        log: one line for each.
    """

    def __init__(self, attempts: RunningAttempts, metrics: Metrics, log: Log) -> None:
        self._attempts = attempts
        self._metrics = metrics
        self._log = log

    def begin(self, lost: Attempt, loss: Loss, tokens: int, before: Replay | None = None) -> Replay:
        """Report that an answer leaves its decode worker.

        Args:
            lost: its attempt there.
            loss: why it leaves.
            tokens: output tokens that the next worker repeats.
            before: a replay that has brought the client nothing yet; the silence counts from its beginning.
        """
        began = self._silent_since(lost) if before is None else before.began
        replay = Replay(loss, lost.pair.decode.name, tokens, began)
        lost.ticket.replays.append(replay)
        task = lost.request.task
        self._metrics.replays.labels(task, loss).inc()
        self._metrics.replayed_tokens.labels(task).inc(tokens)
        self._log.event("replay", task=task, worker=replay.worker, why=loss, tokens=tokens, rid=lost.rid)
        return replay

    def resumed(self, attempt: Attempt, replay: Replay) -> None:
        """Report that the client receives something again."""
        replay.resumed = self._attempts.now()
        self._metrics.replay_silence.labels(attempt.request.task).observe(replay.resumed - replay.began)

    def differs(self, attempt: Attempt, why: str) -> None:
        """Report that a worker repeats another answer than the one that the client has a part of."""
        worker = attempt.pair.decode.name
        self._log.event("replay_differs", task=attempt.request.task, worker=worker, why=why, rid=attempt.rid)

    def _silent_since(self, lost: Attempt) -> float:
        """Return the loop time at which the last bytes of the answer arrived; now if none did."""
        now, arrived = self._attempts.now(), lost.legs["decode"].arrived
        silent = self._attempts.clock.now() - arrived
        return now if arrived == float("-inf") else now - max(0.0, silent)
