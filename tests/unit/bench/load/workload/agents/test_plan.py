"""All sessions: arrivals, agents, digests, wrong settings."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from sun_sglang.bench.load.errors import BenchError
from sun_sglang.bench.load.workload.agents.plan import SessionPlan
from sun_sglang.bench.load.workload.build import build
from sun_sglang.bench.load.workload.planned import Plan
from sun_sglang.bench.load.workload.settings import workload_settings

FOUR = ("a", "b", "c", "d")
TEN = tuple("abcdefghij")


def sessions(**settings: Any) -> SessionPlan:
    values = {"tasks": FOUR, "workload": "react", "request_rate": 2.0, "agent_initial_tokens": 8}
    built = build(workload_settings(**{**values, **settings}))
    assert isinstance(built, SessionPlan)
    return built


def test_sessions_of_an_open_loop_arrive_as_requests_would() -> None:
    plan = sessions()
    requests = build(workload_settings(tasks=FOUR, request_rate=2.0))
    assert isinstance(requests, Plan)
    assert [session.due for session in plan] == [request.due for request in requests]
    assert plan.count == len(requests)
    assert plan.mix() == dict.fromkeys(FOUR, 3 * len(requests))


def test_sessions_of_a_closed_loop_have_no_times_and_no_end() -> None:
    plan = sessions(request_rate=None, concurrency=5)
    assert plan.count is None
    assert plan.session(10**6).due is None
    assert sessions(request_rate=None, concurrency=5, request_count=3).count == 3
    with pytest.raises(IndexError):
        sessions(request_rate=None, concurrency=5, request_count=3).session(3)


@pytest.mark.parametrize(
    ("tasks", "agents", "expected"),
    [
        (FOUR, None, FOUR),
        (("a", "b", "c"), None, ("a", "b", "c", "a")),
        (("a",), 2, ("a", "a")),
        (FOUR, 6, (*FOUR, "a", "b")),
    ],
)
def test_agents_of_few_tasks_have_them_in_order(
    tasks: tuple[str, ...], agents: int | None, expected: tuple[str, ...]
) -> None:
    assert sessions(tasks=tasks, agent_count=agents).session(0).tasks == expected


def test_agents_of_many_tasks_are_different_ones_drawn_by_popularity() -> None:
    plan = sessions(tasks=TEN, zipf=2.0, request_rate=20.0)
    drawn = [session.tasks for session in plan]
    assert all(len(set(tasks)) == 4 for tasks in drawn)
    counts = Counter(task for tasks in drawn for task in tasks)
    assert counts["a"] > counts["c"] > counts["e"] > counts["j"] > 0
    extreme = sessions(tasks=TEN, zipf=5000.0, hot_shift=10.0, request_rate=None, concurrency=1)
    assert "f" not in extreme.session(0, elapsed=5).tasks
    assert "f" in extreme.session(0, elapsed=55).tasks


def test_reflexion_sessions_are_longer_than_those_of_react() -> None:
    react, reflexion = sessions(), sessions(workload="reflexion")
    assert (react.workflow.calls, reflexion.workflow.calls) == (12, 16)
    assert reflexion.workflow.output_tokens > react.workflow.output_tokens


@pytest.mark.parametrize(
    "changed",
    [
        {"agent_turns": 1},
        {"agent_count": 2},
        {"agent_initial_tokens": 9},
        {"agent_shared_tokens": 2},
        {"agent_appended_tokens": 0},
        {"agent_output_tokens": 3},
        {"random_seed": 1},
        {"prompt_seed": 1},
        {"request_rate": 3.0},
    ],
)
def test_sessions_digest_differs_with_any_setting_of_the_content(changed: dict[str, Any]) -> None:
    assert sessions().sha256() == sessions().sha256()
    assert sessions().sha256() != sessions(**changed).sha256()


def test_sessions_of_another_length_keep_their_times() -> None:
    assert [s.due for s in sessions()] == [s.due for s in sessions(agent_output_tokens=3, agent_turns=7)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"agent_shared_tokens": 9}, "--agent-shared-tokens: 9 is more than the 8 of --agent-initial-tokens"),
        ({"agent_turns": 0}, "--agent-turns: Input should be greater than 0"),
        ({"workload": "react2"}, "--workload: Input should be 'requests', 'react' or 'reflexion'"),
        ({"request_rate": 1e9}, "--request-rate: 1e+09 per second make more than"),
    ],
)
def test_sessions_of_wrong_settings_give_one_error_with_the_flag(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BenchError) as error:
        sessions(**settings)
    assert str(error.value).startswith(message)
