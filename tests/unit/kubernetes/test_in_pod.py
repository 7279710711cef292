"""What runs in pods: the worker's start, its probe, its drain, and the files of the router."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from sun_sglang.contracts.fleet_file import Fleet, load_fleet, write_fleet
from sun_sglang.emulator.settings import parse_settings
from sun_sglang.emulator.worker import EmulatedWorker
from sun_sglang.kubernetes.in_pod import pre_stop, probe, router_files
from sun_sglang.kubernetes.in_pod.start_worker import command
from tests.support.emulator import flags
from tests.unit.kubernetes.conftest import KEY

FLEET: dict[str, Any] = {
    "tasks": {"sums": {"prefill": "math", "decode": "base"}},
    "pools": {"math": {"role": "prefill", "model": "m"}, "base": {"role": "decode", "model": "b"}},
    "workers": [],
    "admin_key_file": "/run/sun/admin.key",
}


class Clock:
    """A clock that only `sleep` advances."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(
    ("requests", "most", "idle", "within"),
    [
        # nothing to wait for but a request that the router may just be sending
        ([0], 60.0, True, (5.0, 5.5)),
        # the router still sends requests for a while
        ([0] * 4 + [2] * 6 + [0], 60.0, True, (10.0, 10.5)),
        ([3], 20.0, False, (20.0, 20.5)),
        # it has ended
        ([None], 60.0, True, (5.0, 5.5)),
    ],
)
def test_a_worker_is_drained_once_it_has_been_idle_for_a_while(
    requests: list[int | None], most: float, idle: bool, within: tuple[float, float]
) -> None:
    clock, values = Clock(), iter(requests)
    last = requests[-1]
    assert pre_stop.wait_idle(lambda: next(values, last), most, clock=clock, sleep=clock.sleep) is idle
    assert within[0] <= clock.now <= within[1]


@pytest.mark.parametrize("loads", [None, {}, {"loads": [1]}, []])
def test_loads_of_another_form_are_an_error(loads: object) -> None:
    with pytest.raises(ValueError, match="no loads"):
        pre_stop.requests_in(loads)


async def test_probe_and_drain_ask_the_worker_with_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = parse_settings(flags("decode", "base"))
    worker = EmulatedWorker(settings.model_copy(update={"key": KEY}))
    await worker.start()
    try:
        monkeypatch.setenv("POD_IP", "127.0.0.1")
        monkeypatch.setenv("WORKER_PORT", str(worker.server.port))
        monkeypatch.setenv("SUN_WORKER_KEY", KEY)
        assert await asyncio.to_thread(probe.main, ["--ready"]) == 0
        assert await asyncio.to_thread(pre_stop._requests) == 0
        monkeypatch.setenv("SUN_WORKER_KEY", KEY + "x")
        assert await asyncio.to_thread(probe.main, []) == 1
        assert await asyncio.to_thread(pre_stop._requests) is None
    finally:
        await worker.stop()
    assert await asyncio.to_thread(probe.main, []) == 1


def test_a_worker_that_stops_is_alive_and_not_ready() -> None:
    card = {"incarnation": "a", "leaving": True}
    assert not probe.obstacle(card, ready=False)
    assert probe.obstacle(card, ready=True)
    assert probe.obstacle(["no card"], ready=False)


def test_prefill_workers_get_a_bootstrap_port_for_each_start() -> None:
    prefill = ["m", "--disaggregation-mode", "prefill"]
    assert command(prefill, 7)[1:] == ["-m", *prefill, "--disaggregation-bootstrap-port", "7"]
    decode = ["m", "--disaggregation-mode", "decode"]
    assert command(decode, 7)[1:] == ["-m", *decode]


def test_the_router_keeps_its_file_and_its_key_when_its_containers_start_again(tmp_path: Path) -> None:
    source, run = tmp_path / "source.json", tmp_path / "run"
    run.mkdir()
    write_fleet(source, Fleet.model_validate(FLEET))
    assert router_files.main([str(source), str(run)]) == 0
    key = (run / "admin.key").read_text()
    assert len(key) > 30
    changed = Fleet.model_validate(FLEET | {"tasks": {**FLEET["tasks"], "more": FLEET["tasks"]["sums"]}})
    write_fleet(run / "fleet.json", changed)
    assert router_files.main([str(source), str(run)]) == 0
    assert load_fleet(run / "fleet.json") == changed
    assert (run / "admin.key").read_text() == key
    assert (run / "admin.key").stat().st_mode & 0o077 == 0


def test_a_fleet_file_that_cannot_be_read_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert router_files.main([str(tmp_path / "none"), str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
