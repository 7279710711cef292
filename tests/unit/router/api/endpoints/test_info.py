"""Replies of workers about themselves that hold more than clients of the router may receive."""

from __future__ import annotations

from aiohttp import web

from sun_sglang.contracts.tasks_report import TasksReport
from tests.unit.router.conftest import System


async def endless(request: web.Request) -> web.StreamResponse:
    out = web.StreamResponse()
    await out.prepare(request)
    while True:
        await out.write(b" " * 65536)


async def redirect(_: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("http://127.0.0.1:1/secret")


async def no_text(_: web.Request) -> web.StreamResponse:
    return web.Response(status=400, body=b"\xff", headers={"Content-Type": "text/plain; charset=none"})


async def no_list(_: web.Request) -> web.StreamResponse:
    return web.json_response({"internal_states": 3})


async def test_info_of_a_worker_without_an_end_is_broken_off(small: System) -> None:
    small["math-0"].info = endless
    status, reply = await small.get("/model_info")
    assert (status, "over 4194304 bytes" in reply["error"]["message"]) == (502, True)


async def test_info_that_is_a_redirect_is_not_followed(small: System) -> None:
    small["math-0"].info = redirect
    status, reply = await small.get("/model_info")
    assert (status, reply["error"]["message"]) == (502, "worker `math-0` answered 302 to /model_info")
    async with small.client.post("/flush_cache") as flushed:
        assert flushed.status == 400
        assert "302" in await flushed.text()


async def test_info_of_another_shape_is_shown_as_it_is(small: System) -> None:
    small["base-0"].info = no_list
    status, reply = await small.get("/server_info")
    assert (status, reply["internal_states"]) == (200, [])


async def test_flush_that_fails_in_an_unknown_charset_is_a_400(small: System) -> None:
    small["base-0"].info = no_text
    async with small.client.post("/flush_cache") as flushed:
        assert flushed.status == 400
        assert "base-0: \N{REPLACEMENT CHARACTER}" in await flushed.text()


async def test_cookies_of_a_worker_are_not_kept(small: System) -> None:
    """An address has no cookies in any case; a name has."""

    async def sets_one(_: web.Request) -> web.StreamResponse:
        return web.json_response({}, headers={"Set-Cookie": "a=b"})

    fake, worker = small["math-0"], small.router.registry.workers["math-0"]
    worker.update_spec(worker.spec.model_copy(update={"url": f"http://localhost:{fake.port}"}))
    fake.info = sets_one
    for _ in range(2):
        assert (await small.get("/model_info"))[0] == 200
    assert not any("Cookie" in headers for headers in fake.info_headers)


async def test_tasks_page_read_by_its_contract_loses_nothing(small: System) -> None:
    status, page = await small.get("/tasks")
    report = TasksReport.model_validate(page)
    assert (status, report.model_dump(mode="json")) == (200, page)
    assert report.all_ready
    assert set(report.workers) == {"math-0", "tool-0", "base-0"}
