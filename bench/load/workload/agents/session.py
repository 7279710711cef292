"""One session: the request of each of its calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sun_sglang.bench.load.workload.agents.workflow import Workflow
from sun_sglang.bench.load.workload.planned import PlannedRequest
from sun_sglang.bench.load.workload.prompts.random_tokens import TokenIds


@dataclass(frozen=True)
class Session:
    """One session.

    Attributes:
        number: number of the session, from 0.
        due: seconds after the start at which its first call is due; None where the client starts it.
        tasks: the task of each agent.
        workflow: its calls.
        ids: makes the tokens.
    """

    number: int
    due: float | None
    tasks: tuple[str, ...]
    workflow: Workflow
    ids: TokenIds

    @property
    def calls(self) -> int:
        """Number of calls."""
        return self.workflow.calls

    def task(self, call: int) -> str:
        """Return the task of a call."""
        return self.tasks[call % len(self.tasks)]

    def request(self, call: int, replies: Sequence[Sequence[int] | None] = ()) -> PlannedRequest:
        """Return the request of a call: the context so far, with the answers that the earlier calls received.

        Args:
            call: number of the call, from 0.
            replies: the token ids that each earlier call generated. Where they are missing or not of the fixed length,
                random ids of that length are in their place: a server has to prefill either, and prompts keep their
                fixed length.
        """
        flow = self.workflow
        prompt = list(self.ids(flow.shared_tokens, "shared"))
        prompt += self.ids(flow.initial_tokens - flow.shared_tokens, "session", self.number)
        for earlier in range(call):
            reply = replies[earlier] if earlier < len(replies) else None
            if reply is None or len(reply) != flow.output_tokens:
                reply = self.ids(flow.output_tokens, "reply", self.number, earlier)
            prompt += reply
            prompt += self.ids(flow.appended_tokens, "appended", self.number, earlier)
        return PlannedRequest(
            index=self.number * self.calls + call,
            task=self.task(call),
            due=self.due if call == 0 else None,
            prompt=tuple(prompt),
            output_tokens=flow.output_tokens,
            session=self.number,
        )
