from __future__ import annotations

import pytest

from sun_sglang.contracts.fleet_file import FleetWorker
from sun_sglang.router.workers.worker import Worker
from sun_sglang.router.workers.worker_load import WorkerLoad
from tests.unit.router.registries import card

MUTABLE = [
    (kind, name) for kind in (Worker, WorkerLoad) for name in vars(kind) if isinstance(vars(kind)[name], property)
]


def worker() -> Worker:
    return Worker(FleetWorker(name="d0", pool="d", url="http://h:1"), "decode")


@pytest.mark.parametrize(("kind", "name"), MUTABLE)
def test_worker_field_written_from_outside_raises(kind: type, name: str) -> None:
    one = worker() if kind is Worker else worker().load
    with pytest.raises(AttributeError):
        setattr(one, name, None)


def test_worker_has_no_public_field_that_changes() -> None:
    constant = {"name", "role", "hash", "load"}
    assert {name for name in Worker.__slots__ if not name.startswith("_")} == constant
    assert not [name for name in WorkerLoad.__slots__ if not name.startswith("_")]


def test_worker_whose_card_is_dropped_keeps_its_incarnation_and_takes_no_part() -> None:
    one = worker()
    one.accept_card(card("decode", incarnation="first"), "")
    assert (one.admitted, one.reason) == (True, "")
    one.drop_card("the connection broke")
    assert (one.card, one.admitted, one.reason, one.incarnation) == (None, False, "the connection broke", "first")


def test_worker_that_is_told_to_end_takes_no_requests_and_says_why() -> None:
    one = worker()
    one.accept_card(card("decode", leaving=True), "")
    assert one.admitted
    assert not one.takes_requests
    assert one.reason == "its process was told to end"


def test_loss_of_a_worker_reaches_each_callback_that_was_not_removed() -> None:
    one, lost, removed = worker(), [], []
    one.add_loss_callback(lost.append)
    one.add_loss_callback(removed.append)
    one.remove_loss_callback(removed.append)
    one.report_loss("gone")
    assert (lost, removed) == (["gone"], [])
