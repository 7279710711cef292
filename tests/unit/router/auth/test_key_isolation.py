"""A key gives no access to the tasks and requests of another key."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from sun_sglang.bench.polling import wait_until
from sun_sglang.contracts.fleet_file import FleetWorker
from tests.unit.router.conftest import DEADLINES, SMALL, SUN, Start, System
from tests.unit.router.fake_worker import Fault

ALICE, BOB, WATCHER, ROOT = (name + "-" + name[0] * 20 for name in ("alice", "bob", "watcher", "root"))
KEYS: list[dict[str, Any]] = [
    {"name": "alice", "key": ALICE, "tasks": ["math"]},
    {"name": "bob", "key": BOB, "tasks": ["tool", "math"]},
    {"name": "watcher", "key": WATCHER, "tasks": [], "metrics": True},
    {"name": "root", "key": ROOT, "admin": True},
]
ASK = {"model": "math", "input_ids": [5, 6, 7]}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


QUICK = replace(DEADLINES, file_check=0.005)


@pytest.fixture
async def shared(start: Start, tmp_path: Path) -> System:
    file = tmp_path / "keys.yaml"
    file.write_text(yaml.safe_dump({"keys": KEYS}))
    system: System = await start(SUN, SMALL, router={"api_keys": str(file)}, deadlines=QUICK)
    return system


async def told(system: System, method: str, path: str, key: str | None, **kwargs: Any) -> tuple[int, str]:
    headers = {**(bearer(key) if key else {}), **kwargs.pop("headers", {})}
    async with system.client.request(method, path, headers=headers, **kwargs) as r:
        return r.status, await r.text()


# --- tasks ----------------------------------------------------------------------------------------------------------


async def test_a_task_outside_the_keys_list_reads_like_one_that_does_not_exist(shared: System) -> None:
    asked: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/generate", {"json": {**ASK, "model": "NAME"}}),
        ("POST", "/v1/chat/completions", {"json": {"model": "NAME", "messages": [{"role": "user", "content": "a"}]}}),
        ("POST", "/v1/completions", {"json": {"model": "math", "prompt": "a"}, "headers": {"X-Sun-Task": "NAME"}}),
        ("GET", "/v1/models/NAME", {}),
        ("GET", "/model_info?model=NAME", {}),
    ]
    for method, path, kwargs in asked:
        answers = []
        for name in ("tool", "none"):
            status, text = await told(shared, method, path.replace("NAME", name), ALICE, **named(kwargs, name))
            answers.append((status, text.replace(f"`{name}`", "`NAME`")))
        assert answers[0] == answers[1]
        assert answers[0][0] == 404
        assert "tool" not in answers[0][1]


def named(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return {k: named(v, name) for k, v in value.items()}
    return name if value == "NAME" else value


@pytest.mark.invariant("I17")
@pytest.mark.parametrize("path", ["/v1/models", "/model_info", "/get_model_info", "/health_generate", "/health"])
async def test_no_answer_to_a_key_names_a_task_outside_its_list(shared: System, path: str) -> None:
    status, text = await told(shared, "GET", path, ALICE)
    assert status == 200
    assert "tool" not in text


async def test_health_names_the_tasks_that_are_down_to_a_key_that_may_call_them(shared: System) -> None:
    await shared["tool-0"].stop()
    await wait_until(lambda: shared.router.registry.unserved() == ["tool"])
    assert await told(shared, "GET", "/health", None) == (200, '{"status":"ok"}')
    assert await told(shared, "GET", "/health", ALICE) == (200, '{"status":"ok","unserved_tasks":[]}')
    assert await told(shared, "GET", "/health", ROOT) == (200, '{"status":"ok","unserved_tasks":["tool"]}')


async def test_a_key_without_tasks_gets_an_answer_everywhere(shared: System) -> None:
    assert (await told(shared, "GET", "/model_info", WATCHER))[0] == 400
    assert (await told(shared, "GET", "/health_generate", WATCHER))[0] == 200
    assert (await told(shared, "POST", "/generate", WATCHER, json=ASK))[0] == 404


async def test_metrics_show_every_task_and_need_a_key_that_may_read_them(shared: System) -> None:
    status, text = await told(shared, "GET", "/metrics", ALICE)
    assert (status, "`metrics: true`" in text) == (403, True)
    for key in (WATCHER, ROOT):
        status, text = await told(shared, "GET", "/metrics", key)
        assert status == 200
        assert 'task="tool"' in text
    assert (await told(shared, "GET", "/tasks", WATCHER))[0] == 403


# --- canaries -------------------------------------------------------------------------------------------------------


async def test_health_generate_sends_canaries_of_the_keys_tasks_only_and_counts_them(
    start: Start, tmp_path: Path
) -> None:
    file = tmp_path / "keys.yaml"
    keys = [{"name": "alice", "key": ALICE, "tasks": ["math"], "requests_per_minute": 0.1}, KEYS[1]]
    file.write_text(yaml.safe_dump({"keys": keys}))
    system: System = await start(SUN, {"math": 1, "tool": 1, "base": 1}, router={"api_keys": str(file)})
    before = {name: worker.canaries for name, worker in system.workers.items()}
    assert (await told(system, "GET", "/health_generate", ALICE))[0] == 200
    sent = {name: worker.canaries - before[name] for name, worker in system.workers.items()}
    assert sent == {"math-0": 1, "tool-0": 0, "base-0": 1}
    for method, path, kwargs in (("GET", "/health_generate", {}), ("POST", "/generate", {"json": ASK})):
        assert (await told(system, method, path, ALICE, **kwargs))[0] == 429
    assert (await told(system, "GET", "/health_generate", BOB))[0] == 200


async def test_clients_that_ask_health_generate_at_once_share_a_canary(
    shared: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    info, canaries, waiting, release = shared.router.info, [], [], asyncio.Event()
    share = info._canary

    async def canary(path: Any) -> str:
        canaries.append(path)
        await release.wait()
        return ""

    async def wait(task: str) -> str:
        waiting.append(task)
        return await share(task)

    monkeypatch.setattr(info._path_prover, "canary", canary)
    monkeypatch.setattr(info, "_canary", wait)
    first, *others = (asyncio.create_task(told(shared, "GET", "/health_generate", ALICE)) for _ in range(5))
    await wait_until(lambda: len(waiting) == 5)
    first.cancel()  # the client that left first takes nothing from the others
    await asyncio.wait([first])
    release.set()
    assert {status for status, _ in await asyncio.gather(*others)} == {200}
    assert len(canaries) == 1
    assert not info._canaries


# --- ids ------------------------------------------------------------------------------------------------------------


@pytest.mark.invariant("I17")
async def test_two_keys_may_use_one_id_and_an_abort_finds_the_keys_own(shared: System) -> None:
    shared["base-0"].fault = Fault(hang_after=2)
    asked = {}
    for key in (ALICE, BOB):
        asked[key] = asyncio.create_task(told(shared, "POST", "/generate", key, json={**ASK, "rid": "same"}))
        await wait_until(lambda: len(shared["base-0"].running) == len(asked))
    again = await told(shared, "POST", "/generate", BOB, json={**ASK, "rid": "same"})
    assert (again[0], "in flight already" in again[1]) == (400, True)
    assert (await told(shared, "POST", "/abort_request", BOB, json={"rid": "same"}))[0] == 200
    assert (await asked[BOB])[0] == 200
    assert len(shared["base-0"].running) == 1
    assert not asked[ALICE].done()
    assert (await told(shared, "POST", "/abort_request", ROOT, json={"rid": "same"}))[0] == 200
    assert (await asked[ALICE])[0] == 200
    await shared.quiet()
    assert not shared.router.in_flight._named


async def test_aborts_of_a_request_that_is_being_aborted_cost_nothing(
    shared: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = []
    release = asyncio.Event()

    async def abort(worker: FleetWorker, what: dict[str, Any]) -> None:
        sent.append(worker.url)
        await release.wait()

    shared["base-0"].fault = Fault(hang_after=2)
    asked = asyncio.create_task(told(shared, "POST", "/generate", ALICE, json={**ASK, "rid": "one"}))
    await wait_until(lambda: shared["base-0"].running)
    monkeypatch.setattr(shared.router.dispatcher.client, "abort", abort)
    for _ in range(20):
        assert (await told(shared, "POST", "/abort_request", ALICE, json={"rid": "one"}))[0] == 200
    assert sorted(sent) == sorted(shared[name].url for name in ("math-0", "base-0"))
    monkeypatch.undo()
    release.set()
    await shared.client.post("/abort_request", json={"rid": "one"}, headers=bearer(ALICE))
    assert (await asked)[0] == 200


# --- the file changes -----------------------------------------------------------------------------------------------


async def replaced(system: System, file: Path, keys: object) -> dict[str, Any]:
    """Write the file; wait until the router has read it."""
    before = len(system.events)
    partial = file.with_suffix(".new")
    partial.write_text(yaml.safe_dump(keys))
    partial.replace(file)

    def seen() -> list[dict[str, Any]]:
        return [e for e in system.events[before:] if e["event"] in ("keys_changed", "keys_refused")]

    await wait_until(seen)
    return seen()[0]


async def test_a_key_that_leaves_the_file_is_refused_and_one_that_comes_is_let_in(
    shared: System, tmp_path: Path
) -> None:
    file = tmp_path / "keys.yaml"
    new = "carol-" + "c" * 20
    assert (await told(shared, "POST", "/generate", ALICE, json=ASK))[0] == 200
    said = await replaced(shared, file, {"keys": [*KEYS[1:], {"name": "carol", "key": new}]})
    assert (said["event"], said["keys"]) == ("keys_changed", ["bob", "watcher", "root", "carol"])
    for path in ("/generate", "/v1/completions"):
        assert (await told(shared, "POST", path, ALICE, json=ASK))[0] == 401
    assert (await told(shared, "POST", "/generate", new, json=ASK))[0] == 200
    assert not any(key in shared.log.getvalue() for key in (ALICE, BOB, new))


async def test_a_file_that_is_wrong_or_gone_keeps_the_keys(shared: System, tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    for wrong in ({"keys": []}, {"keys": [{"name": "a", "key": ALICE, "taks": ["math"]}]}, "", [ALICE]):
        assert (await replaced(shared, file, wrong))["event"] == "keys_refused"
        assert (await told(shared, "POST", "/generate", ALICE, json=ASK))[0] == 200
    for text in ("keys: [{name: 2026-02-30}]", "keys: " + "[" * 500, "keys: []\nkeys: []"):
        before = len(shared.events)
        file.write_text(text)
        await wait_until(lambda: any(e["event"] == "keys_refused" for e in shared.events[before:]))  # noqa: B023
    assert not shared.router.loops.failed.is_set(), "PyYAML raises more than its own errors"
    before = len(shared.events)
    file.unlink()
    await wait_until(lambda: any(e["event"] == "keys_refused" for e in shared.events[before:]))
    assert (await told(shared, "POST", "/generate", ALICE, json=ASK))[0] == 200
    assert ALICE not in shared.log.getvalue()


async def test_a_rate_that_stays_keeps_its_level_when_the_file_changes(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    slow = {"name": "alice", "key": ALICE, "requests_per_minute": 0.1}
    file.write_text(yaml.safe_dump({"keys": [slow]}))
    system: System = await start(
        SUN, {"math": 1, "tool": 1, "base": 1}, router={"api_keys": str(file)}, deadlines=QUICK
    )
    assert (await told(system, "POST", "/generate", ALICE, json=ASK))[0] == 200
    await replaced(system, file, {"keys": [{**slow, "tasks": ["math"]}, KEYS[1]]})
    assert (await told(system, "POST", "/generate", ALICE, json=ASK))[0] == 429
    await replaced(system, file, {"keys": [{**slow, "requests_per_minute": 600}, KEYS[1]]})
    assert (await told(system, "POST", "/generate", ALICE, json=ASK))[0] == 200


async def test_a_request_under_way_ends_well_when_its_key_is_removed(shared: System, tmp_path: Path) -> None:
    shared["base-0"].fault = Fault(hang_after=2)
    asked = asyncio.create_task(told(shared, "POST", "/generate", ALICE, json={**ASK, "rid": "mine"}))
    await wait_until(lambda: shared["base-0"].running)
    await replaced(shared, tmp_path / "keys.yaml", {"keys": KEYS[1:]})
    async with aiohttp.ClientSession(shared.router.url, headers=bearer(ROOT)) as root:
        assert (await root.post("/abort_request", json={"rid": "mine"})).status == 200
    assert (await asked)[0] == 200
    await shared.quiet()
