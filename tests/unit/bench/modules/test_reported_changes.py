"""The changes of modules in the window of a run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from sun_sglang.bench.load.metrics.window import Window
from sun_sglang.bench.modules.reported_changes import Changed, ChangeLog


def test_changes_before_and_after_the_window_do_not_count() -> None:
    run: Any = SimpleNamespace(started="1970-01-01T00:01:40+00:00", window=Window(10.0, 20.0))
    log = ChangeLog()
    for at, changes in ((99, 50), (109.9, 60), (110.1, 61), (119.9, 75), (120.5, 80)):
        log.note(at, Changed(changes, changes / 2))
    assert log.during(run) == Changed(15, 7.5)
    late = ChangeLog()
    late.note(115, Changed(3, 1.0))
    assert late.during(run) == Changed(0, 0.0)
