"""Sessions of agents: several models in turn over one context that grows.

The workload is that of PrefillShare (section 4.1, appendix B.1). A session has some turns; in each, all agents are
called one after the other. The next call starts when the answer of the one before is complete, without a delay. Input
and output lengths of each call are fixed. The prompt of a call is the session's context: the initial tokens and, for
each earlier call, its answer and what the workflow appends (an observation, the instruction of the next agent).

The paper takes the lengths from "the token-length statistics reported in prior work" (Kim et al. 2025, arXiv
2506.04301) and states neither them nor the number of turns. So the defaults are an **assumption**. Those of `react` are
chosen to have the cache hits that the paper does report (section 4.3): with 1,536 initial tokens, 64 + 64 a call and
three turns, a cache that all agents share can hit 89.0 % of the prompt tokens (paper: "nearly 89%"), one cache for each
agent 59.0 % (paper: "peaks at 60%"). For `reflexion` the paper has no such number; its sessions are taken as longer
(four turns, 128 + 128 a call, from 2,048), since each trial adds a reflection to the context.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Workflow:
    """The calls of a session.

    Attributes:
        agents: number of agents, each called once in a turn.
        turns: turns of a session.
        initial_tokens: length of the first prompt.
        appended_tokens: tokens that follow each answer.
        output_tokens: length of an answer.
        shared_tokens: how many of the initial tokens are the same in all sessions, such as a system prompt.
    """

    agents: int
    turns: int
    initial_tokens: int
    appended_tokens: int
    output_tokens: int
    shared_tokens: int = 0

    @property
    def calls(self) -> int:
        """Number of calls of a session."""
        return self.agents * self.turns

    def turn(self, call: int) -> int:
        """Return the number of the turn that a call belongs to, from 0."""
        return call // self.agents

    def input_tokens(self, call: int) -> int:
        """Return the length of the prompt of a call."""
        return self.initial_tokens + call * (self.output_tokens + self.appended_tokens)


REACT = Workflow(agents=4, turns=3, initial_tokens=1536, appended_tokens=64, output_tokens=64)
REFLEXION = Workflow(agents=4, turns=4, initial_tokens=2048, appended_tokens=128, output_tokens=128)
