"""Counts of a run while it goes on, and its end where nothing but failures comes back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from sun_sglang.bench.load.client.endpoint import Prepared
from sun_sglang.bench.load.client.record import RequestRecord
from sun_sglang.bench.load.drive.stop import Ending, StopSignal

Send = Callable[[Prepared], Awaitable[RequestRecord]]
"""Sends one request and returns its record; a failure is in the record."""

_HOPELESS = 50


@dataclass
class Progress:
    """Counts since the start of the run, the warm-up included.

    Attributes:
        sent: requests that were sent.
        succeeded: answers that arrived whole.
        failed: requests that failed, by kind.
        tokens: output tokens of the answers that arrived whole.
    """

    sent: int = 0
    succeeded: int = 0
    tokens: int = 0
    failed: dict[str, int] = field(default_factory=dict)

    @property
    def failures(self) -> int:
        """Requests that failed."""
        return sum(self.failed.values())

    @property
    def in_flight(self) -> int:
        """Requests whose answer has not ended."""
        return self.sent - self.succeeded - self.failures


def counted(send: Send, progress: Progress, stop: StopSignal) -> Send:
    """Return a function that also counts, and stops a run of which the first 50 answers are failures.

    Args:
        send: sends one request.
        progress: the counts.
        stop: ends the run.
    """

    async def send_and_count(prepared: Prepared) -> RequestRecord:
        progress.sent += 1
        record = await send(prepared)
        if record.failure is None:
            progress.succeeded += 1
            progress.tokens += record.output_tokens
            return record
        kind, message = record.failure
        progress.failed[kind] = progress.failed.get(kind, 0) + 1
        if progress.succeeded == 0 and progress.failures >= _HOPELESS:
            stop.stop(
                Ending.TARGET_FAILED, f"all of the first {_HOPELESS} requests failed; the last: {kind}: {message}"
            )
        return record

    return send_and_count
