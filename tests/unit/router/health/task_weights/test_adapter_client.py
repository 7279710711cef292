from __future__ import annotations

import pytest

from sun_sglang.router.health.task_weights.clients.adapter_client import change_fault


@pytest.mark.parametrize(
    ("status", "reply", "why"),
    [
        (200, b'{"success": true, "loaded_adapters": {"sun-1": "/a"}}', ""),
        (200, b'{"success": false, "error_message": "no space"}', "no space"),
        (400, b'{"success": false, "error_message": "it is already loaded"}', "it is already loaded"),
        (400, b'{"success": true}', "{'success': True}"),
        (500, b"Internal Server Error", "Internal Server Error"),
        (500, b"", "it answered 500"),
        (401, b'{"error": {"message": "no key"}}', "no key"),
        (200, b'{"success": false, "error_message": 7}', "{'success': False, 'error_message': 7}"),
        (200, b"[]", "[]"),
    ],
)
def test_fault_of_a_change_is_the_workers_message(status: int, reply: bytes, why: str) -> None:
    assert change_fault(status, reply) == why
