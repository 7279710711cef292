"""How the tests are given to the processes of `pytest -n 3`."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from tests.support.distribution import APART, DEMO, SharedFixtures, scope_of

ENGINE = Path(__file__).parents[1] / "engine"


def test_named_files_exist() -> None:
    assert {name for name in APART | DEMO if not (ENGINE / name).is_file()} == set()


def test_scope_of_a_test_is_what_shares_its_fixture() -> None:
    assert scope_of("tests/engine/test_api.py::test_a") == scope_of("tests/engine/test_cache.py::test_b[x]")
    assert scope_of("tests/engine/test_demo.py::test_a") == scope_of("tests/engine/test_eval.py::test_b")
    assert scope_of("tests/engine/test_names.py::test_a") == "tests/engine/test_names.py"
    assert scope_of("tests/unit/test_topology.py::test_a[x::y]") == "tests/unit/test_topology.py"
    for alone in ("tests/engine/test_launcher.py::test_a", "tests/system/faults/test_rows.py::test_a[1]"):
        assert scope_of(alone) == alone


class Node:
    """A process of xdist that runs what it is given when the test asks for that."""

    shutting_down = False

    class gateway:  # noqa: N801 - xdist's name
        id = "gw"

    def __init__(self) -> None:
        self.given: list[int] = []

    def send_runtest_some(self, tests: list[int]) -> None:
        self.given += tests

    def shutdown(self) -> None:
        """Have nothing more to do."""


def test_all_but_one_process_start_on_the_engine_and_short_files_end_the_run() -> None:
    tests = [
        *(f"tests/engine/test_api.py::test_{i}" for i in range(9)),
        *(f"tests/engine/test_demo.py::test_{i}" for i in range(9)),
        *(f"tests/engine/test_launcher.py::test_{i}" for i in range(2)),
        *(f"tests/system/faults/test_rows.py::test_{i}" for i in range(9)),
        "tests/unit/cli/test_cli.py::test_0",
        "tests/unit/train/test_run.py::test_0",
    ]
    config = SimpleNamespace(getvalue=lambda _: ["popen"] * 3, option=SimpleNamespace(loadscopereorder=False))
    scheduler = SharedFixtures(config)
    nodes = [Node() for _ in range(3)]
    for node in nodes:
        scheduler.add_node(node)
        scheduler.add_node_collection(node, tests)
    scheduler.schedule()
    firsts = [tests[node.given[0]].partition("::")[0] for node in nodes]
    assert firsts == ["tests/engine/test_api.py", "tests/engine/test_demo.py", "tests/system/faults/test_rows.py"]
    order = []
    while waiting := [node for node in nodes if node.given]:
        for node in waiting:
            order.append(tests[test := node.given.pop(0)])
            scheduler.mark_test_complete(node, test)
    assert sorted(order) == sorted(tests)
    assert order.index("tests/unit/train/test_run.py::test_0") < order.index("tests/unit/cli/test_cli.py::test_0")
