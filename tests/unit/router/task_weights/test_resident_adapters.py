from __future__ import annotations

from sun_sglang.router.task_weights.resident_adapters import ResidentAdapters


def test_requested_adapter_counts_until_the_report_after_the_request() -> None:
    resident = ResidentAdapters()
    resident.note_request("a", 8)
    assert resident.holds("a")
    resident.begin_report()
    resident.note_request("b", 8)
    resident.end_report(["c"])
    assert [resident.holds(name) for name in "abc"] == [False, True, True]
    resident.begin_report()
    resident.end_report([])
    assert not any(map(resident.holds, "abc"))


def test_as_many_requested_adapters_count_as_the_worker_has_slots() -> None:
    resident = ResidentAdapters()
    for name in "abac":
        resident.note_request(name, 2)
    assert [resident.holds(name) for name in "abc"] == [True, False, True]


def test_restart_of_the_worker_empties_its_slots() -> None:
    resident = ResidentAdapters()
    resident.begin_report()
    resident.end_report(["a"])
    resident.note_request("b", 2)
    resident.clear()
    assert not resident.holds("a")
    assert not resident.holds("b")
