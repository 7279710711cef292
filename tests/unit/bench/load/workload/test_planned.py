"""Plans: columns, prompts on demand, their digest."""

from __future__ import annotations

import orjson
import pytest

from sun_sglang.bench.load.workload.planned import Chat, Plan, PlannedRequest, PlannedRow


class _Counting:
    """A source whose prompt shows its arguments."""

    digest = "counting"

    def __init__(self) -> None:
        self.asked: list[int] = []

    def prompt(self, index: int, task: str, tokens: int) -> tuple[int, ...]:
        self.asked.append(index)
        return (index,) * tokens


def _plan(*rows: PlannedRow, source: _Counting | None = None) -> Plan:
    return Plan(("math", "code"), iter(rows), source or _Counting())


def test_plan_item_is_made_when_asked_for() -> None:
    source = _Counting()
    plan = _plan(PlannedRow(0.5, 0, 2, 8), PlannedRow(1.5, 1, 3, 9), source=source)
    assert source.asked == []
    assert plan[1] == PlannedRequest(1, "code", 1.5, (1, 1, 1), 9)
    assert source.asked == [1]
    assert plan[-1] == plan[1]
    assert [request.task for request in plan] == ["math", "code"]


def test_plan_mix_counts_each_task() -> None:
    assert _plan(PlannedRow(0, 1, 1, 1), PlannedRow(1, 1, 1, 1)).mix() == {"math": 0, "code": 2}


@pytest.mark.parametrize("other", [PlannedRow(0.5, 1, 2, 8), PlannedRow(0.5, 0, 3, 8), PlannedRow(0.6, 0, 2, 8)])
def test_plan_digest_differs_with_any_column(other: PlannedRow) -> None:
    row = PlannedRow(0.5, 0, 2, 8)
    assert _plan(row).sha256() == _plan(row).sha256()
    assert _plan(row).sha256() != _plan(other).sha256()


def test_plan_line_is_the_request_as_json() -> None:
    assert list(_plan(PlannedRow(0.5, 1, 2, 8)).lines()) == [
        b'{"index":0,"task":"code","due":0.5,"prompt":[0,0],"output_tokens":8,"session":null}\n'
    ]


def test_plan_line_of_a_chat_has_its_messages() -> None:
    class Chats:
        digest = "chats"

        def prompt(self, index: int, task: str, tokens: int) -> Chat:
            return Chat(({"role": "user", "content": "Hi"},))

    [line] = Plan(("math",), [PlannedRow(0, 0, 0, 1)], Chats()).lines()
    assert orjson.loads(line)["prompt"] == {"messages": [{"role": "user", "content": "Hi"}]}
