"""Commands, whose bodies are small."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from sun_sglang.router.api.endpoints.small_body import MAX_BYTES
from tests.unit.router.conftest import System

COMMANDS = [("POST", "/abort_request"), ("POST", "/workers"), ("POST", "/pools"), ("PUT", "/tasks/math")]
JSON = {"Content-Type": "application/json"}


async def pieces(body: bytes) -> AsyncIterator[bytes]:
    yield body


@pytest.mark.parametrize(("method", "path"), COMMANDS)
@pytest.mark.parametrize("chunked", [False, True])
async def test_command_with_a_large_body_is_refused_before_it_is_parsed(
    small: System, method: str, path: str, chunked: bool
) -> None:
    body = b'{"rid": [' + b"[]," * (MAX_BYTES // 3) + b"[]]}"
    async with small.client.request(method, path, data=pieces(body) if chunked else body, headers=JSON) as r:
        assert (r.status, (await r.json())["error"]["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(("method", "path"), COMMANDS)
async def test_command_that_is_no_json_is_refused(small: System, method: str, path: str) -> None:
    async with small.client.request(method, path, data=b"rid=1") as r:
        assert (r.status, (await r.json())["error"]["code"]) == (400, "invalid_content_type")
