from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sun_sglang.router.api.endpoints.tasks_page import TasksPage
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.worker_paths import WorkerPath
from tests.unit.router.registries import admit_all, prove_all, shared_pools


def page(registry: Registry, asked: list[WorkerPath]) -> TasksPage:
    def last_fault(path: WorkerPath) -> tuple[str, int]:
        asked.append(path)
        return "no KV", 2

    parts: tuple[Any, ...] = (
        SimpleNamespace(last_fault=last_fault),
        SimpleNamespace(last_fault=lambda worker, adapter: ("no file", 3)),
        SimpleNamespace(tickets=()),
        SimpleNamespace(waiting=lambda task: 0),
        SimpleNamespace(offered={}),
        SimpleNamespace(),
        SimpleNamespace(active=False),
    )
    return TasksPage(registry, *parts)


def test_tasks_report_of_400_tasks_on_shared_pools_renders_each_worker_and_path_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = Registry(shared_pools())
    admit_all(registry)
    prove_all(registry)
    revoked = WorkerPath("p0", "d0")
    registry.revoke(revoked)
    rendered: list[str] = []
    state = registry.state

    def count(name: str) -> Any:
        rendered.append(name)
        return state(name)

    monkeypatch.setattr(registry, "state", count)
    asked: list[WorkerPath] = []
    report = page(registry, asked).report()
    assert len(report.tasks) == 400
    for task in report.tasks.values():
        assert len(task.paths) == 31
        assert [(path.prefill, path.decode, path.why, path.times) for path in task.unproven_paths] == [
            (*revoked, "no KV", 2)
        ]
    assert sorted(rendered) == sorted(registry.workers)
    assert asked == [revoked]
