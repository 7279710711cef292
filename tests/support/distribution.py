"""The distribution of tests over the processes of `pytest -n 3`: which tests stay together, and which go first."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

# Files of tests/engine whose tests share the demo's deployment, and files whose tests start their own servers, or none.
# All other files there share one deployment.
DEMO = frozenset(("test_bench.py", "test_demo.py", "test_eval.py"))
APART = frozenset(
    (
        "test_decode_cache.py",
        "test_failover.py",
        "test_fields.py",
        "test_modules.py",
        "test_names.py",
        "test_parallel.py",
        "test_prompt_only_cache.py",
        "test_training.py",
    )
)
# each of these tests starts its own processes
_ALONE = ("tests/system/faults/", "tests/engine/test_launcher.py")
# tests that share a Ray cluster
_RAY = ("tests/system/launch/ray/", "tests/system/launch/test_place_conformance.py")
_ENGINE = ("deployment", "demo", "tests/engine/")
# files of tens of seconds: one of them as the last would run by itself
_LONG = ("tests/unit/train/", "tests/unit/demo/")


def scope_of(test: str) -> str:
    """Return the name of the tests that run in one process together with this one, since they share a fixture."""
    file = test.partition("::")[0]
    if file.startswith(_ALONE):
        return test
    if file.startswith(_RAY):
        return "tests/system/launch/ray"
    name = file.removeprefix("tests/engine/")
    if name == file or name in APART:
        return file
    return "demo" if name in DEMO else "deployment"


class SharedFixtures(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no type information
    """Give tests to the free process, scope by scope.

    All processes but one start with tests on SGLang, which compute; the last one has the others, most of which wait for
    deadlines and processes. So two cores are busy all the time.
    """

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)

    def _assign_work_unit(self, node: Any) -> None:
        on_engine = sum(
            any(_on_engine(scope) and not all(done.values()) for scope, done in scopes.items())
            for other, scopes in self.assigned_work.items()
            if other is not node
        )
        engine = on_engine < max(1, len(self.nodes) - 1)
        self.workqueue.move_to_end(min(self.workqueue, key=lambda scope: _rank(scope, engine)), last=False)
        super()._assign_work_unit(node)


def _on_engine(scope: str) -> bool:
    return scope.startswith(_ENGINE)


def _rank(scope: str, engine: bool) -> tuple[bool, int]:
    """Return the place of a scope in the order; scopes of one place keep the order of their files.

    Args:
        scope: its name.
        engine: tests on SGLang go first, not last.
    """
    places = ("tests/system/", _LONG, "tests/")
    return _on_engine(scope) != engine, next((i for i, place in enumerate(places) if scope.startswith(place)), 0)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> SharedFixtures:
    """Return the scheduler. It keeps the order of the files: the shared deployment starts first."""
    config.option.loadscopereorder = False
    return SharedFixtures(config, log)
