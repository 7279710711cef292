"""One short request of each task before the load: what is wrong with all of them is said once, and at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sun_sglang.bench.load.client.clock import RunClock
from sun_sglang.bench.load.client.endpoint import client_session
from sun_sglang.bench.load.client.record import Failure
from sun_sglang.bench.load.client.sender import Sender
from sun_sglang.bench.load.drive.load import AnyPlan
from sun_sglang.bench.load.errors import BenchError
from sun_sglang.bench.load.workload.agents.plan import SessionPlan
from sun_sglang.bench.load.workload.endless import EndlessPlan
from sun_sglang.bench.load.workload.planned import Chat, PlannedRequest, Prompt
from sun_sglang.bench.serving.targets.target import Target

_AT_ONCE = 8
_TOKENS = 2
_PROMPT_TOKENS = 8


async def check_tasks(target: Target, tasks: Sequence[str], plan: AnyPlan, *, timeout: float) -> int:
    """Send a short request of the plan's kind to each task, and return how many were sent.

    Raises:
        BenchError: one failed, or its answer has another length than it asked for.
    """
    prompt = _short(first_prompt(plan))
    slots = asyncio.Semaphore(_AT_ONCE)
    async with client_session(timeout=timeout) as session:
        sender = Sender(session, target.endpoint_of, RunClock())

        async def check(task: str) -> Failure | None:
            async with slots:
                request = PlannedRequest(0, task, None, prompt, _TOKENS)
                return (await sender.send(target.prepare(request))).failure

        failures = await asyncio.gather(*map(check, tasks))
    for task, failure in zip(tasks, failures, strict=True):
        if failure is not None:
            raise BenchError(
                f"task `{task}` cannot be measured: a first request failed with {failure.kind}: {failure.message}"
            )
    return len(sender.records)


def first_prompt(plan: AnyPlan) -> Prompt:
    """Return the prompt of the first request of a plan."""
    if isinstance(plan, EndlessPlan):
        return plan.request(0, 0.0).prompt
    if isinstance(plan, SessionPlan):
        return plan.session(0).request(0).prompt
    return plan[0].prompt


def _short(prompt: Prompt) -> Prompt:
    if isinstance(prompt, Chat):
        return Chat(({"role": "user", "content": "hello"},))
    # backwards: the load's own first prompt must not find its beginning in a cache
    return "hello" if isinstance(prompt, str) else prompt[:_PROMPT_TOKENS][::-1]
