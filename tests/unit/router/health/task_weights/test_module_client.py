from __future__ import annotations

import pytest

from sun_sglang.router.health.task_weights.clients.module_client import given_fault, taken_fault
from sun_sglang.router.health.task_weights.clients.weights_client import kind_of_name
from tests.unit.router.weights_refs import adapter, module


@pytest.mark.parametrize(
    ("status", "reply", "why"),
    [
        (200, b"{}", ""),
        (400, b'{"error": {"message": "its `lm_head` has another shape"}}', "its `lm_head` has another shape"),
        (404, b'{"error": {"message": "no such page"}}', "no such page"),
        (500, b"Internal Server Error", "Internal Server Error"),
        (503, b"", "it answered 503"),
    ],
)
def test_fault_of_a_module_that_is_given_is_the_workers_message(status: int, reply: bytes, why: str) -> None:
    assert given_fault(status, reply) == why


def test_module_that_a_worker_does_not_have_is_taken_from_it() -> None:
    assert taken_fault(404, b'{"error": {"message": "it has none"}}') == ""
    assert taken_fault(200, b"{}") == ""
    assert taken_fault(500, b"broken") == "broken"


def test_kind_of_weights_is_known_by_their_name_on_a_worker() -> None:
    assert kind_of_name(adapter(1).name) == "adapter"
    assert kind_of_name(module(1).name) == "module"
