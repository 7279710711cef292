from __future__ import annotations

import asyncio
import fcntl
import io
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from sun_sglang.contracts.fleet_file import Fleet, FleetWorker, load_fleet
from sun_sglang.router.errors import ApiError
from sun_sglang.router.observability.log import Log
from sun_sglang.router.workers.fleet_edits import add_worker, set_draining
from sun_sglang.router.workers.fleet_store import FleetStore
from sun_sglang.router.workers.registry import Registry
from sun_sglang.router.workers.watched_file import WatchedFile
from tests.unit.router.conftest import DEADLINES, PATIENCE_S, System, set_deadlines
from tests.unit.router.fleet_api import ASK, call

FLEET = Fleet.model_validate(
    {
        "tasks": {"a": {"prefill": "p", "decode": "d"}},
        "pools": {"p": {"role": "prefill", "model": "x"}, "d": {"role": "decode", "model": "x"}},
        "workers": [{"name": n, "pool": n[0], "url": f"http://h{i}:1"} for i, n in enumerate(("p0", "p1", "d0", "d1"))],
    }
)


async def test_what_one_process_changes_the_other_takes_over(tmp_path: Path) -> None:
    quick = replace(DEADLINES, file_check=0.005)
    file, log = tmp_path / "fleet.json", io.StringIO()
    file.write_text(FLEET.model_dump_json())
    one, two = (Registry(load_fleet(file)) for _ in range(2))
    stores = [FleetStore(registry, file, Log(log), quick) for registry in (one, two)]
    watching = asyncio.create_task(stores[1].run())
    await stores[0].edit(add_worker(FleetWorker(name="d2", pool="d", url="http://h9:1")))
    await stores[0].edit(set_draining("d0", draining=True, moving=True))
    async with asyncio.timeout(PATIENCE_S):
        while not (two.workers["d0"].moving and "d2" in two.workers):
            await asyncio.sleep(0.005)
        file.write_text("{")
        while "fleet_refused" not in log.getvalue():
            await asyncio.sleep(0.005)
        assert "d2" in two.workers
        document = FLEET.model_dump(mode="json")
        document["pools"]["p"]["role"], document["pools"]["d"]["role"] = "decode", "prefill"
        document["tasks"]["a"] = {"prefill": "d", "decode": "p"}
        file.write_bytes(orjson.dumps(document))
        while "pools.p.role: it is a prefill pool and stays one" not in log.getvalue():
            await asyncio.sleep(0.005)
        assert two.wanted.tasks["a"].prefill == "p"
        file.write_text("{")
        with pytest.raises(ApiError, match="fleet file has an error and cannot be changed") as refused:
            await stores[0].edit(set_draining("d0", draining=False))
        assert refused.value.status == 409
    watching.cancel()


async def test_change_that_the_disk_has_no_room_for_is_a_503_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path, _content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sun_sglang.contracts.fleet_file.write_private", full)
    file = tmp_path / "fleet.json"
    file.write_text(FLEET.model_dump_json())
    registry = Registry(load_fleet(file))
    with pytest.raises(ApiError, match="No space left on device") as refused:
        await FleetStore(registry, file, Log(io.StringIO()), DEADLINES).edit(set_draining("d0", draining=True))
    assert refused.value.status == 503
    assert not registry.workers["d0"].draining
    assert load_fleet(file) == FLEET


async def test_a_lock_that_is_not_given_back_stops_one_change_and_nothing_else(
    small: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "fleet.json"
    file.write_text(small.router.registry.wanted.model_dump_json())
    monkeypatch.setattr(small.router.store, "_file", WatchedFile(file))
    set_deadlines(small.router.store, fleet_lock=PATIENCE_S)
    with (tmp_path / ".fleet.json.lock").open("w") as stuck:
        fcntl.flock(stuck, fcntl.LOCK_EX)
        waiting = asyncio.create_task(call(small, "POST", "/workers/base-0/drain"))
        for _ in range(3):
            assert (await small.post("/generate", ASK))[0] == 200
        assert not waiting.done()
        set_deadlines(small.router.store, fleet_lock=0.01)
        status, said = await call(small, "POST", "/workers/base-0/drain")
        assert (status, said["error"]["code"]) == (503, "fleet_locked")
        assert small.router.registry.state("base-0") == "ready"
    assert (await waiting)[0] == 200, "it had waited for its turn"
    assert small.router.registry.state("base-0") == "draining"
