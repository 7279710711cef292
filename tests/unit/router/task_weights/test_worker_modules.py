from __future__ import annotations

from typing import Any

from sun_sglang.contracts.modules_report import ModulesReport
from sun_sglang.router.task_weights.worker_modules import OWN, WorkerModules
from tests.unit.router.weights_refs import module

A, B, C = (module(number).revision for number in (1, 2, 3))
STARTED_WITH = "f" * 16


def report(loaded: str = STARTED_WITH, **fields: Any) -> ModulesReport:
    return ModulesReport(loaded=loaded, own=STARTED_WITH, **fields)


def read(modules: WorkerModules, found: ModulesReport | None) -> None:
    modules.begin_report()
    modules.end_report(found)


def test_new_worker_has_its_own_model_loaded_and_no_change_ahead() -> None:
    modules = WorkerModules()
    assert modules.loaded == OWN
    assert modules.has(OWN)
    assert not modules.has(A)
    assert modules.changes_ahead == 0
    assert modules.change_tokens == 0


def test_requests_of_this_process_count_at_once_until_they_are_released() -> None:
    modules = WorkerModules()
    for one in (A, A, B):
        modules.acquire(one)
    assert modules.has(A)
    assert modules.changes_ahead == 2
    assert not modules.has(OWN), "the worker is about to change to another module"
    modules.note_computed(A)
    modules.release(A)
    assert (modules.loaded, modules.changes_ahead) == (A, 1)
    modules.release(A)
    modules.release(B)
    assert modules.requests == {}
    assert modules.has(A), "still loaded"
    assert not modules.has(B)


def test_report_names_the_own_model_as_requests_do() -> None:
    modules = WorkerModules()
    read(modules, report(A, queued={STARTED_WITH: 1}, change_seconds=0.5, tokens_per_second=1000))
    assert modules.loaded == A
    assert modules.is_wanted(OWN)
    assert modules.change_tokens == 500
    read(modules, report(STARTED_WITH))
    assert modules.loaded == OWN
    assert not modules.is_wanted(A)


def test_waiting_requests_of_this_process_in_a_report_are_counted_once() -> None:
    modules = WorkerModules()
    modules.acquire(A)
    modules.begin_report()
    modules.acquire(B)
    modules.release(A)
    # the worker may have written its report before A was computed, and after B arrived
    modules.end_report(report(queued={A: 1, B: 1, C: 2}))
    assert not modules.is_wanted(A)
    assert modules.is_wanted(C), "of another sender"
    modules.release(B)
    assert not modules.is_wanted(B)


def test_prompt_that_was_computed_during_a_report_counts_more_than_the_report() -> None:
    modules = WorkerModules()
    modules.begin_report()
    modules.note_computed(B)
    modules.end_report(report(A))
    assert modules.loaded == B
    read(modules, report(A))
    assert modules.loaded == A


def test_missing_report_changes_nothing() -> None:
    modules = WorkerModules()
    read(modules, report(A, queued={B: 1}))
    read(modules, None)
    assert (modules.loaded, modules.is_wanted(B)) == (A, True)


def test_restart_forgets_reports_and_keeps_the_requests_of_this_process() -> None:
    modules = WorkerModules()
    modules.acquire(A)
    read(modules, report(A, queued={B: 1}))
    modules.clear()
    assert (modules.report, modules.loaded, modules.is_wanted(B)) == (None, OWN, False)
    modules.release(A)
    assert modules.requests == {}
