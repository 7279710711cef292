"""Which changes of the router's workers follow from the pods."""

from __future__ import annotations

from typing import Any

import pytest

from sun_sglang.kubernetes.discovery.changes import Add, Change, Drain, Known, Remove, changes
from sun_sglang.kubernetes.discovery.pods import Event, Pod, PodTable, parse_pod
from tests.support.fake_kubernetes import pod as raw_pod

URL = "http://10.0.0.1:30000"


def pod(name: str = "sun-base-a", **fields: Any) -> Pod:
    return Pod(**{"name": name, "uid": "1", "pool": "base", "url": URL} | fields)


def known(name: str = "sun-base-a", **fields: Any) -> Known:
    return Known(**{"name": name, "pool": "base", "url": URL, "state": "ready"} | fields)


def due(pods: list[Pod], workers: list[Known], added: dict[str, str] | None = None, **drained: str) -> list[Change]:
    of = {name.replace("_", "-"): uid for name, uid in drained.items()}
    return changes({one.name: one for one in pods}, workers, added or {}, of, "sun-")


LEAVING = pod(leaving=True)


@pytest.mark.parametrize(
    ("pods", "workers", "expected"),
    [
        ([], [], []),
        ([pod()], [], [Add(pod())]),
        ([pod(url="")], [], []),
        ([LEAVING], [], []),
        ([pod(ended=True)], [], []),
        ([pod()], [known()], []),
        ([pod()], [known(state="draining")], []),
        ([LEAVING], [known()], [Drain(LEAVING)]),
        ([LEAVING], [known(state="leaving")], []),
        ([], [known()], [Remove("sun-base-a")]),
        ([], [known(state="leaving")], []),
        ([pod(ended=True)], [known()], [Remove("sun-base-a")]),
        ([], [known("by-hand")], []),
        ([pod(url="")], [known()], []),
    ],
    ids=str,
)
def test_a_pod_is_a_worker_from_its_address_to_its_end(
    pods: list[Pod], workers: list[Known], expected: list[Change]
) -> None:
    assert due(pods, workers) == expected


def test_a_worker_is_drained_once_for_a_pod() -> None:
    assert due([LEAVING], [known(state="draining")], sun_base_a="1") == []


def test_another_pod_of_the_same_name_replaces_the_worker() -> None:
    """The pods of a StatefulSet keep their names."""
    for later, worker in ((pod(url="http://10.0.0.2:30000"), known()), (pod(uid="2"), known(state="leaving"))):
        assert due([later], [worker], {"sun-base-a": "1"}) == [Remove("sun-base-a", force=True), Add(later)]


def test_new_workers_come_before_those_that_leave() -> None:
    new = pod("sun-base-b")
    made = due([LEAVING, new], [known(), known("sun-base-gone")])
    assert made == [Add(new), Drain(LEAVING), Remove("sun-base-gone")]


def test_a_table_ignores_the_end_of_an_earlier_pod() -> None:
    table = PodTable()
    table.replace([pod(uid="2")])
    table.apply(Event("DELETED", pod(uid="1")))
    assert table.pods == {"sun-base-a": pod(uid="2")}
    table.apply(Event("DELETED", pod(uid="2")))
    assert table.pods == {}


def test_a_pod_without_a_pool_is_none() -> None:
    raw = raw_pod("sun-router-a")
    del raw["metadata"]["labels"]["sun-sglang/pool"]
    assert parse_pod(raw) is None
    assert parse_pod({"metadata": {"name": "x"}}) is None
