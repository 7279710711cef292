"""The task of a request."""

from __future__ import annotations

import pytest

from sun_sglang.errors import RequestError
from sun_sglang.router.protocol.request import choose_task


@pytest.mark.parametrize(
    ("header", "model", "tasks", "task"),
    [
        (None, "a", ["a", "b"], "a"),
        ("b", "a", ["a", "b"], "b"),
        ("b", 3, ["a", "b"], "b"),
        (None, None, ["a"], "a"),
        (None, "default", ["a"], "a"),
        (None, "default", ["a", "default"], "default"),
    ],
)
def test_the_task_of_a_request(header: str | None, model: object, tasks: list[str], task: str) -> None:
    assert choose_task(header, model, tasks) == task


@pytest.mark.parametrize(
    ("header", "model", "tasks", "status"),
    [
        (None, "c", ["a", "b"], 404),
        (None, "c", ["a"], 404),
        ("c", "a", ["a"], 404),
        (None, None, ["a", "b"], 400),
        (None, 3, ["a"], 400),
    ],
)
def test_no_task_of_that_name(header: str | None, model: object, tasks: list[str], status: int) -> None:
    with pytest.raises(RequestError) as e:
        choose_task(header, model, tasks)
    assert e.value.status == status
