"""The control socket: who may connect, and what a client sees of a launcher that is gone."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from pydantic import BaseModel

from sun_sglang.errors import LaunchError, UserError
from sun_sglang.launch.control import server
from sun_sglang.launch.control.client import ControlClient
from sun_sglang.launch.control.server import CONTROL_SOCKET, ControlServer, peer_uid, read_body
from sun_sglang.launch.deployment import make_run_dir


class Echo(BaseModel):
    text: str


async def echo(http: web.Request) -> web.Response:
    return web.Response(text=(await read_body(http, Echo)).text)


async def busy(_: web.Request) -> web.Response:
    raise LaunchError("something else runs")


async def fail(_: web.Request) -> web.Response:
    raise RuntimeError("a defect")


ROUTES = [web.post("/echo", echo), web.delete("/busy", busy), web.delete("/fail", fail)]


@asynccontextmanager
async def listening(run_dir: Path) -> AsyncIterator[ControlServer]:
    control = ControlServer(run_dir, ROUTES)
    await control.open()
    yield control
    await control.close()


async def ask(run_dir: Path, text: str = "hello") -> list[bytes]:
    async with ControlClient(run_dir) as client:
        return [line async for line in client.stream("/echo", Echo(text=text))]


@pytest.mark.parametrize("deep", ["", "deep" * 20 + "/" + "deeper" * 20])
async def test_command_is_answered_also_where_the_path_is_longer_than_a_socket_address(
    tmp_path: Path, deep: str
) -> None:
    run_dir = tmp_path / deep
    make_run_dir(run_dir)
    async with listening(run_dir):
        assert await ask(run_dir) == [b"hello"]
        assert stat.S_IMODE((run_dir / CONTROL_SOCKET).stat().st_mode) == 0o600
    assert os.listdir(run_dir) == []  # noqa: PTH208 - Path.iterdir blocks as well


async def test_error_of_a_handler_is_raised_by_the_client(tmp_path: Path) -> None:
    async with listening(tmp_path), ControlClient(tmp_path) as client:
        with pytest.raises(UserError, match=r"^the request: Invalid JSON"):
            [line async for line in client.stream("/echo", _NotEcho())]
        with pytest.raises(LaunchError, match=r"^something else runs$"):
            await client.call("DELETE", "/busy")
        with pytest.raises(LaunchError, match="the launcher answered 500 to DELETE /fail: "):
            await client.call("DELETE", "/fail")


class _NotEcho(BaseModel):
    def model_dump_json(self, **_: object) -> str:  # type: ignore[override]  # whatever a body may be
        return "{"


async def test_command_of_another_user_is_refused_although_the_socket_is_open_to_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening(tmp_path):
        own = os.geteuid()
        monkeypatch.setattr(server, "peer_uid", lambda _: own + 1)
        with pytest.raises(UserError, match=rf"only the launcher's own user \({own}\) may control it, not user"):
            await ask(tmp_path)


def test_peer_uid_of_a_connection_is_that_of_its_process() -> None:
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        assert peer_uid(one) == os.geteuid()


async def test_socket_of_a_killed_launcher_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / CONTROL_SOCKET))
    with pytest.raises(LaunchError, match=r"the launcher that made .*control.sock is gone \(Connection refused\)"):
        await ask(tmp_path)
    async with listening(tmp_path):
        assert await ask(tmp_path) == [b"hello"]


async def test_directory_that_takes_no_socket_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / CONTROL_SOCKET).mkdir()
    with pytest.raises(LaunchError, match=r"takes no Unix socket \(Is a directory\), .* give another --run-dir"):
        await ControlServer(tmp_path, ROUTES).open()
    assert os.listdir(tmp_path) == [CONTROL_SOCKET]  # noqa: PTH208 - Path.iterdir blocks as well


async def test_launcher_without_a_socket_is_gone_or_of_an_earlier_version(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="the launcher is gone, or is of a version without a control socket"):
        await ask(tmp_path)
