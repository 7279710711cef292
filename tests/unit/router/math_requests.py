"""Requests of task `math` to the router over fake workers, and what they return."""

from __future__ import annotations

from typing import Any

import pytest

from sun_sglang.bench.polling import wait_until
from tests.unit.router.conftest import System
from tests.unit.router.fake_worker import expected

IDS = [5, 6, 7]


MATH = {"model": "math", "input_ids": IDS, "sampling_params": {"max_new_tokens": 4}}


ANSWER = expected("w-math", "w-base", IDS, 4)


STREAMS = pytest.mark.parametrize("stream", [False, True])


async def ask(system: System, stream: bool, **more: Any) -> Any:
    """Return the token ids of an answer, streamed or not."""
    if not stream:
        status, reply = await system.post("/generate", {**MATH, **more})
        assert status == 200, reply
        return reply["output_ids"]
    events = await system.events_of("/generate", {**MATH, **more, "stream": True})
    assert events[-1] == "[DONE]"
    return events[-2]["output_ids"]


async def refuse(system: System, status: int, stream: bool = False, **more: Any) -> Any:
    got, reply = await system.post("/generate", {**MATH, **more, "stream": stream})
    assert got == status, reply
    await system.quiet()
    return reply


async def aborted(system: System, worker: str, which: int = -1) -> None:
    """Wait until the worker has received an abort of one of its requests."""
    rid = system[worker].requests[which][1]["rid"]
    await wait_until(lambda: {"rid": rid} in system[worker].aborts)


def only_once(system: System) -> None:
    """Assert that no worker received an id or a room twice."""
    for worker in system.workers.values():
        for names in zip(*worker.names, strict=True):
            assert len(set(names)) == len(names)
    by_role = {role: [w.names for w in system.workers.values() if w.role == role] for role in ("prefill", "decode")}
    for lists in by_role.values():
        sent = [names for each in lists for names in each]
        assert len({rid for rid, _ in sent}) == len({room for _, room in sent}) == len(sent)
