"""The display of `sun workers restart`: the present step, and a line for each worker that serves again."""

from __future__ import annotations

from rich.console import Console

from sun_sglang.launch.rolling_restart.messages import Event, Outcome, Progress, Restarted, Step

_WORDS = {
    Step.DRAIN: "draining",
    Step.STOP: "stopping",
    Step.START: "starting",
    Step.CANARY: "waiting for its canaries",
}


class RestartView:
    """Shows the events of a restart. Use it as a context manager.

    Args:
        console: where it is shown; the present step only on a terminal.

    Attributes:
        last: the last step that was shown; None before the first.
    """

    def __init__(self, console: Console) -> None:
        self.last: Progress | None = None
        self._console = console
        self._status = console.status("asking the launcher ...")

    def __enter__(self) -> RestartView:
        if self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def show(self, event: Event) -> None:
        """Show an event."""
        if isinstance(event, Progress):
            self.last = event
            self._status.update(describe_step(event))
        elif isinstance(event, Restarted):
            self.note(describe_restarted(event))

    def note(self, line: str) -> None:
        """Print a line."""
        self._console.print(line, markup=False)


def describe_step(event: Progress) -> str:
    """Return a step in words."""
    left = f", {event.in_flight} requests in flight" if event.step == Step.DRAIN and event.in_flight else ""
    return f"{event.worker} ({event.number} of {event.of}): {_WORDS[event.step]}{left}"


def describe_restarted(event: Restarted) -> str:
    """Return one line about a worker that runs again, with the seconds of its steps."""
    seconds = ", ".join(f"{step} {seconds:.1f}" for step, seconds in event.seconds.items())
    end = "runs again, drained as before," if event.drained else "serves again"
    return f"{event.worker}: {end} after {sum(event.seconds.values()):.1f} s ({seconds})"


def describe_end(outcome: Outcome) -> str:
    """Return why a restart ended before all of its workers were restarted; empty where none is left."""
    if outcome.failed is None and not outcome.left:
        return ""
    done = ", ".join(one.worker for one in outcome.restarted) or "none"
    left = f"; not touched: {', '.join(outcome.left)} (`sun workers restart NAME` restarts one)" if outcome.left else ""
    if outcome.failed is None:
        return f"ended on request; restarted: {done}{left}"
    failed = outcome.failed
    return f"`{failed.worker}` ({failed.step}): {failed.reason}\nRestarted before it: {done}{left}"
