from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sun_sglang.contracts.fleet_file import FleetError, FleetWorker, load_fleet, write_fleet
from tests.unit.router.registries import FLEET


def test_a_fleet_file(tmp_path: Path) -> None:
    file = tmp_path / "fleet.json"
    file.write_text(FLEET.model_dump_json())
    assert load_fleet(file) == FLEET
    assert FLEET.workers[0].host == "h0"


def test_fleet_file_that_was_written_reads_back_equal_and_is_private(tmp_path: Path) -> None:
    file = tmp_path / "fleet.json"
    worker = FLEET.workers[0].model_copy(update={"key": "0123456789abcdef"})
    fleet = FLEET.model_copy(update={"workers": (worker, *FLEET.workers[1:])})
    write_fleet(file, fleet)
    assert load_fleet(file) == fleet
    assert file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": {"a": {"prefill": "x", "decode": "d"}}}, "no pool is named `x`"),
        ({"tasks": {"a": {"prefill": "d", "decode": "d"}}}, "pool `d` is a decode pool"),
        ({"tasks": {}}, "tasks"),
        ({"extra": 1}, "extra"),
        ({"workers": [{"name": "a", "pool": "x", "url": "http://h:1"}]}, "no pool is named `x`"),
        ({"workers": [{"name": "a", "pool": "d", "url": "h:1"}]}, "http://HOST:PORT"),
        ({"workers": [{"name": "a", "pool": "d", "url": "http://h:1"}] * 2}, "given twice"),
        ({"router": {"port": 99999}}, "router.port"),
    ],
)
def test_a_wrong_fleet_file(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    file = tmp_path / "fleet.json"
    file.write_text(json.dumps(json.loads(FLEET.model_dump_json()) | change))
    with pytest.raises(FleetError, match="fleet") as e:
        load_fleet(file)
    assert message in str(e.value)
    assert "\n" not in str(e.value)


def test_a_fleet_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="cannot be read"):
        load_fleet(tmp_path / "none.json")


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://h:99999",
            "http://h:x",
            "http://h:0",
            "http://[::1",
            "http://",
            "http://a b",
            "ftp://h:1",
            "http://h/p",
        ),
        *("http://" + "h" * 64, "http://a..b", "http://é.invalid", "http://u:p@h:1", "http://h:1#x", "http://h:1?x"),
        *("http://-h:1", "http://[::1%/]:1", "http://h\n:1"),
    ],
)
def test_urls_that_no_worker_has(url: str) -> None:
    with pytest.raises(ValueError, match="url"):
        FleetWorker(name="w", pool="p", url=url)


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.7:30000",
        "https://a-b.c_d.svc.cluster.local:1/",
        "http://[::1]:30000",
        "http://[fe80::1%eth0]:1",
        "http://h",
    ],
)
def test_urls_that_workers_have(url: str) -> None:
    assert FleetWorker(name="w", pool="p", url=url).url == url.rstrip("/")
