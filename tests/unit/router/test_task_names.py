from __future__ import annotations

from sun_sglang.router.task_names import TaskNames


def test_names_are_in_order_and_found_by_value() -> None:
    names = TaskNames(["b", "a"])
    assert (list(names), len(names), names[0]) == (["b", "a"], 2, "b")
    assert "a" in names
    assert "c" not in names
    assert None not in names
    assert names == ("b", "a")
