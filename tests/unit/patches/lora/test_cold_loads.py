"""Copies of adapters into slots are counted and timed by the adapter's name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sun_sglang.contracts.adapters_report import AdaptersReport
from sun_sglang.files.shared_snapshot import SharedSnapshot
from sun_sglang.patches.lora import cold_loads
from sun_sglang.patches.lora.cold_loads import ADAPTERS_FILE_VARIABLE, note_unload, time_cold_loads


class Manager:
    """SGLang's manager of adapters: two slots, of which the first in is the first out."""

    def __init__(self) -> None:
        self.memory_pool = SimpleNamespace(uid_to_buffer_id={})
        self.lora_refs = {uid: SimpleNamespace(lora_name=f"sun-{uid}") for uid in "abc"}

    def fetch(self, wanted: set[str | None], running: set[str | None] = frozenset()) -> None:  # type: ignore[assignment]
        slots = self.memory_pool.uid_to_buffer_id
        for uid in sorted(wanted | running, key=str):
            if uid not in slots:
                if len(slots) == 2:
                    del slots[next(iter(slots))]
                slots[uid] = len(slots)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the times that the hook reads."""
    times: list[float] = []
    monkeypatch.setattr(cold_loads.time, "perf_counter", lambda: times.pop(0))
    return times


@pytest.fixture
def snapshot(monkeypatch: pytest.MonkeyPatch) -> SharedSnapshot:
    snapshot = SharedSnapshot("test")
    monkeypatch.setenv(ADAPTERS_FILE_VARIABLE, snapshot.path)
    monkeypatch.setattr(cold_loads, "_writes_the_report", lambda: True)
    return snapshot


def report(snapshot: SharedSnapshot) -> AdaptersReport:
    return AdaptersReport.model_validate_json(snapshot.read())


def fetch(manager: Any, *args: Any) -> None:
    time_cold_loads(Manager.fetch, manager, *args)


def test_copies_are_counted_and_timed_by_name(clock: list[float], snapshot: SharedSnapshot) -> None:
    manager = Manager()
    clock += [0.0, 0.5]
    fetch(manager, {None})
    assert report(snapshot) == AdaptersReport(), "the base is no adapter"
    clock += [1.0, 1.25]
    fetch(manager, {"a"}, {None})
    assert report(snapshot).resident == ("sun-a",)
    clock += [2.0, 3.0]
    fetch(manager, {"b", "c"}, set())
    found = report(snapshot)
    assert found.resident == ("sun-b", "sun-c")
    assert {name: (c.loads, c.seconds) for name, c in found.cold.items()} == {
        "sun-a": (1, 0.25),
        "sun-b": (1, 0.5),
        "sun-c": (1, 0.5),
    }
    clock += [4.0, 4.25]
    fetch(manager, {"a"}, set())
    assert (report(snapshot).cold["sun-a"].loads, report(snapshot).cold["sun-a"].seconds) == (2, 0.5)


def test_batch_whose_adapters_have_slots_writes_nothing(clock: list[float], snapshot: SharedSnapshot) -> None:
    manager = Manager()
    clock += [0.0, 0.5]
    fetch(manager, {"a"})
    written = snapshot.read()
    clock += [1.0, 9.0]
    fetch(manager, {"a"})
    assert snapshot.read() == written


def test_unloaded_adapter_leaves_its_slot_and_keeps_its_count(clock: list[float], snapshot: SharedSnapshot) -> None:
    manager = Manager()
    clock += [0.0, 0.5]
    fetch(manager, {"a", "b"})
    del manager.memory_pool.uid_to_buffer_id["a"], manager.lora_refs["a"]
    note_unload(None, manager, "ref")
    assert report(snapshot).resident == ("sun-b",)
    assert set(report(snapshot).cold) == {"sun-a", "sun-b"}


def test_only_the_first_rank_writes(
    clock: list[float], snapshot: SharedSnapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cold_loads, "_writes_the_report", lambda: False)
    clock += [0.0, 0.5]
    fetch(Manager(), {"a"})
    assert snapshot.read() == b""
