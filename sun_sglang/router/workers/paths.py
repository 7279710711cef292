"""Ways from a prompt to an answer."""

from __future__ import annotations

from typing import NamedTuple

from sun_sglang.router.workers.worker import Worker


class Path(NamedTuple):
    """A way from a prompt to an answer: the task, and the names of the two workers."""

    task: str
    prefill: str
    decode: str


class Pair(NamedTuple):
    """A proven way to serve a task."""

    prefill: Worker
    decode: Worker
