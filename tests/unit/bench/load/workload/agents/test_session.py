"""One session: lengths, prefixes, replies."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.bench.load.workload.agents.session import Session
from sun_sglang.bench.load.workload.agents.workflow import REACT, Workflow
from sun_sglang.bench.load.workload.prompts.random_tokens import RandomTokens

IDS = RandomTokens(1, 1000, 9999)
FLOW = Workflow(agents=2, turns=2, initial_tokens=6, appended_tokens=3, output_tokens=2, shared_tokens=4)


def session(number: int = 0, flow: Workflow = FLOW) -> Session:
    return Session(number, 1.5, ("plan", "code"), flow, IDS)


def prompt(of: Session, call: int, *replies: tuple[int, ...] | None) -> tuple[int, ...]:
    made = of.request(call, replies).prompt
    assert isinstance(made, tuple)
    return made


def test_session_calls_go_to_the_agents_in_turn_and_only_the_first_is_due() -> None:
    requests = [session(3).request(call) for call in range(session().calls)]
    assert [r.task for r in requests] == ["plan", "code", "plan", "code"]
    assert [r.due for r in requests] == [1.5, None, None, None]
    assert [r.index for r in requests] == [12, 13, 14, 15]
    assert {(r.session, r.output_tokens) for r in requests} == {(3, 2)}


@given(
    st.integers(1, 5), st.integers(1, 4), st.integers(1, 50), st.integers(0, 9), st.integers(1, 9), st.integers(0, 50)
)
def test_session_prompt_of_each_call_has_the_fixed_length_and_extends_the_last(
    agents: int, turns: int, initial: int, appended: int, output: int, shared: int
) -> None:
    flow = Workflow(agents, turns, initial, appended, output, min(shared, initial))
    prompts = [prompt(session(0, flow), call) for call in range(flow.calls)]
    assert [len(p) for p in prompts] == [flow.input_tokens(call) for call in range(flow.calls)]
    assert all(later[: len(p)] == p for p, later in pairwise(prompts))


def test_session_reply_joins_the_context_after_the_prompt() -> None:
    first = prompt(session(), 0)
    second = prompt(session(), 1, (7, 8))
    assert second[:8] == (*first, 7, 8)
    assert prompt(session(), 2, (7, 8), (9, 9))[: len(second) + 2] == (*second, 9, 9)


def test_session_reply_of_another_length_or_none_has_a_stand_in() -> None:
    planned = prompt(session(), 1)
    assert prompt(session(), 1, None) == prompt(session(), 1, (7,)) == prompt(session(), 1, (7, 8, 9)) == planned


def test_sessions_share_the_shared_tokens_alone() -> None:
    first, second = prompt(session(0), 0), prompt(session(1), 0)
    assert first[:4] == second[:4]
    assert first[4:] != second[4:]


def test_react_defaults_can_hit_as_much_as_the_paper_reports() -> None:
    """PrefillShare, section 4.3: nearly 89 % with a shared cache, at most 60 % with one for each agent."""
    lengths = [REACT.input_tokens(call) for call in range(REACT.calls)]
    shared = lengths[-1]
    own = sum(lengths[-agent] for agent in range(1, REACT.agents + 1))
    assert round(1 - shared / sum(lengths), 3) == 0.890
    assert round(1 - own / sum(lengths), 3) == 0.590


def test_campaign_lengths_can_hit_as_much_and_fill_the_baselines_caches_with_40_sessions() -> None:
    """docs/benchmarks.md, "Agents over one context"; configs/costs/llama-3.1-8b-a100.yaml has the tokens of a cache."""
    flow = replace(REACT, initial_tokens=7680, appended_tokens=608, output_tokens=32)
    lengths = [flow.input_tokens(call) for call in range(flow.calls)]
    own = sum(lengths[-agent] for agent in range(1, flow.agents + 1))
    assert round(1 - lengths[-1] / sum(lengths), 3) == 0.890
    assert round(1 - own / sum(lengths), 3) == 0.590
    assert 426_788 / (sum(lengths) / len(lengths)) == pytest.approx(40, abs=3)
