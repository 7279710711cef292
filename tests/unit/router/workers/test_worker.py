from __future__ import annotations

from dataclasses import fields

import pytest

from sun_sglang.contracts.fleet_file import FleetWorker
from sun_sglang.router.workers.worker import Worker
from sun_sglang.router.workers.worker_load import WorkerLoad
from tests.unit.router.registries import card

FIELDS = [field.name for field in fields(Worker)]
LOADS = [name for name, value in vars(WorkerLoad).items() if isinstance(value, property)]


def worker() -> Worker:
    return Worker(FleetWorker(name="d0", pool="d", url="http://h:1"), "decode")


@pytest.mark.parametrize("name", FIELDS)
def test_worker_field_written_from_outside_raises(name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(worker(), name, None)


@pytest.mark.parametrize("name", LOADS)
def test_load_of_a_worker_written_from_outside_raises(name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(worker().load, name, None)


def test_load_of_a_worker_has_no_public_field() -> None:
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
    assert one.reason == "its process received the signal to end"


def test_loss_of_a_worker_reaches_each_callback_that_was_not_removed() -> None:
    one, lost, removed = worker(), [], []
    one.add_loss_callback(lost.append)
    one.add_loss_callback(removed.append)
    one.remove_loss_callback(removed.append)
    one.report_loss("gone")
    assert (lost, removed) == (["gone"], [])
