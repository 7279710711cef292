"""Tasks that are added, changed and removed over the admin API, with adapters, under traffic: all or none."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sun_sglang.bench.polling import wait_until
from sun_sglang.checkpoint.adapter.read import read_adapter
from sun_sglang.contracts.fleet_file import Fleet, load_fleet, write_fleet
from sun_sglang.errors import UserError
from sun_sglang.launch.router_client import RouterClient
from sun_sglang.router.errors import ApiError
from sun_sglang.router.workers.fleet_edits import add_task
from sun_sglang.router.workers.watched_file import WatchedFile
from tests.support.adapters import write_adapter
from tests.unit.router.conftest import DEADLINES, Start, System, set_deadlines
from tests.unit.router.fake_worker import Fault, expected
from tests.unit.router.fleet_api import call
from tests.unit.router.weights_refs import LIMITS

TASKS = {"plain": ("pool", "base"), "other": ("lone", "base")}
CARDS = {name: {"adapters": LIMITS} for name in ("pool-0", "pool-1", "lone-0")}
POOL = ("pool-0", "pool-1")
IDS = [5, 6, 7]
QUICK = replace(DEADLINES, canary_pause_min=0.01, canary_pause_max=0.01, weights_unload_pause=0.01)
# a pause that no test waits for
SLOW = replace(QUICK, canary_pause_min=1e6, canary_pause_max=1e6, weights_unload_pause=1e6)


@pytest.fixture
async def system(start: Start) -> System:
    found: System = await start(TASKS, {"pool": 2, "lone": 1, "base": 1}, cards=CARDS, deadlines=SLOW)
    return found


def make(directory: Path, fill: int = 1, **changes: Any) -> str:
    """Write an adapter, and return its name on workers."""
    write_adapter(directory, fill=fill, modules=("self_attn.q_proj",), **changes)
    return read_adapter(directory).name


def body(directory: Path, **fields: Any) -> dict[str, Any]:
    return {"name": "new", "prefill": "pool", "decode": "base", "adapter": str(directory), **fields}


def loaded(system: System, *workers: str) -> list[set[str]]:
    return [set(system[name].adapters.loaded) for name in workers or POOL]


async def ask(system: System, task: str) -> tuple[int, Any]:
    return await system.post("/generate", {"model": task, "input_ids": IDS})


async def answers(system: System, task: str, adapter: str | None) -> None:
    status, reply = await ask(system, task)
    assert status == 200, reply
    weights = f"w-pool+{adapter}" if adapter else "w-pool"
    assert reply["output_ids"] == expected(weights, "w-base", IDS, 4)


@pytest.mark.invariant("I23")
async def test_added_task_is_announced_once_every_worker_has_its_adapter_in_effect(
    system: System, tmp_path: Path
) -> None:
    name = make(tmp_path / "a")
    hold = system["pool-1"].adapters.held[name] = asyncio.Event()
    adding = asyncio.create_task(call(system, "POST", "/tasks", body(tmp_path / "a")))
    await wait_until(lambda: system["pool-0"].adapters.canaries[-1:] == [name])
    assert (await ask(system, "new"))[0] == 404
    assert "new" not in (await system.get("/tasks"))[1]["tasks"]
    hold.set()
    status, said = await adding
    assert (status, said["moved"]) == (201, True)
    assert said["adapter"] == {"name": name, "directory": str(tmp_path / "a")}
    assert loaded(system) == [{name}, {name}]
    assert loaded(system, "lone-0") == [set()]
    await answers(system, "new", name)
    task = (await system.get("/tasks"))[1]["tasks"]["new"]
    assert (task["ready"], task["moving"], task["unproven_adapters"]) == (True, False, [])
    assert (task["adapter"]["name"], task["adapter"]["fingerprint"]) == (name, False)
    assert task["namespace"] == f"pool@w-pool+{name.removeprefix('sun-')}"


@pytest.mark.invariant("I14")
@pytest.mark.parametrize("fault", ["refused", "no effect", "rank"])
async def test_adapter_that_one_worker_refuses_changes_nothing_on_any(
    system: System, tmp_path: Path, fault: str
) -> None:
    name = make(tmp_path / "a", rank=4)
    before = system.router.registry.wanted
    words = {
        "refused": "worker `pool-1` did not take the adapter: rank 0: no memory",
        # by what the first of the two workers shows
        "no effect": "worker `pool-1` did not take the adapter: (the adapter has no effect|another adapter than that)",
        "rank": "worker `pool-1` cannot serve the adapter: the adapter has rank 4, and it accepts up to 2",
    }[fault]
    match fault:
        case "refused":
            system["pool-1"].adapters.faults[name] = "rank 0: no memory"
        case "no effect":
            system["pool-1"].adapters.in_effect[name] = None
        case "rank":
            system["pool-1"].card_changes["adapters"] = {**LIMITS, "max_rank": 2}
            registry = system.router.registry
            await wait_until(lambda: registry.workers["pool-1"].card.adapters.max_rank == 2)  # type: ignore[union-attr]
    status, said = await call(system, "POST", "/tasks", body(tmp_path / "a"))
    assert (status, said["error"]["code"]) == (409, "task_refused")
    assert re.match(words, said["error"]["message"])
    assert loaded(system) == [set(), set()]
    assert system.router.registry.wanted is before
    assert (await ask(system, "new"))[0] == 404
    await answers(system, "plain", None)
    if fault == "rank":
        assert system["pool-0"].adapters.calls == [], "nothing was loaded before the cards were compared"
    # the same call works once the cause is gone, without a pause
    system["pool-1"].adapters.faults.clear()
    system["pool-1"].adapters.in_effect.clear()
    system["pool-1"].card_changes["adapters"] = LIMITS
    await wait_until(lambda: system.router.registry.workers["pool-1"].card.adapters.max_rank == 16)  # type: ignore[union-attr]
    assert (await call(system, "POST", "/tasks", body(tmp_path / "a")))[0] == 201


async def test_load_that_is_under_way_on_another_worker_is_undone_after_a_refusal(
    system: System, tmp_path: Path
) -> None:
    name = make(tmp_path / "a")
    hold = system["pool-0"].adapters.held[name] = asyncio.Event()
    system["pool-1"].adapters.faults[name] = "no memory"
    adding = asyncio.create_task(call(system, "POST", "/tasks", body(tmp_path / "a")))
    await wait_until(lambda: system["pool-0"].adapters.calls and system["pool-1"].adapters.calls)
    await wait_until(lambda: not system.router.registry.weights.needed("pool"))
    assert not adding.done()
    hold.set()
    assert (await adding)[0] == 409
    assert loaded(system) == [set(), set()]


async def test_load_without_an_answer_is_undone_once_the_worker_has_ended_it(system: System, tmp_path: Path) -> None:
    name = make(tmp_path / "a")
    hold = system["pool-1"].adapters.held[name] = asyncio.Event()
    # the router waits no longer; one that gets no CPU may give up on the other worker too
    set_deadlines(system.router.weights_prover._client._adapters, adapter_change=0.05)
    status, said = await call(system, "POST", "/tasks", body(tmp_path / "a"))
    assert (status, said["error"]["code"]) == (409, "task_refused")
    assert "no answer to /load_lora_adapter within 0.05 s" in said["error"]["message"]
    hold.set()
    await wait_until(lambda: f"-{name}" in system["pool-1"].adapters.calls and loaded(system) == [set(), set()])
    assert (await ask(system, "new"))[0] == 404


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("missing", "is not a directory; name the directory of a LoRA adapter"),
        ("truncated", "adapter_model.safetensors"),
        ("base", "the adapter was made for weights"),
    ],
)
async def test_adapter_that_cannot_be_read_or_has_another_base_is_one_error_before_any_load(
    system: System, tmp_path: Path, broken: str, words: str
) -> None:
    directory = tmp_path / "a"
    if broken != "missing":
        make(
            directory,
            **(
                {"record": {"base": "other", "decoder": "w-base", "first_token": "prefill"}} if broken == "base" else {}
            ),
        )
    if broken == "truncated":
        weights = directory / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-3])
    status, said = await call(system, "POST", "/tasks", body(directory))
    assert status in (400, 409)
    assert words in said["error"]["message"]
    assert all(not system[name].adapters.calls for name in POOL)


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"prefill": "no"}, 400, "no pool is named `no`"),
        ({"prefill": "base"}, 400, "is a decode pool"),
        ({"name": "plain"}, 409, "a task `plain` already"),
        ({"weight": 0}, 400, "weight"),
    ],
)
async def test_wrong_settings_of_a_new_task_are_refused_before_any_load(
    system: System, tmp_path: Path, change: dict[str, Any], status: int, words: str
) -> None:
    make(tmp_path / "a")
    got, said = await call(system, "POST", "/tasks", body(tmp_path / "a", **change))
    assert (got, words in said["error"]["message"]) == (status, True), said
    assert all(not system[name].adapters.calls for name in POOL)


async def test_new_task_on_pools_without_a_ready_worker_is_refused(system: System) -> None:
    await call(system, "POST", "/pools", {"name": "empty", "role": "prefill", "model": "m"})
    new = {"name": "new", "prefill": "empty", "decode": "base"}
    status, said = await call(system, "POST", "/tasks", new)
    assert (status, said["error"]["message"][:30]) == (409, "no worker of pool `empty` is r")


async def test_new_task_whose_canary_fails_is_refused_with_the_reason(system: System) -> None:
    await call(system, "POST", "/pools", {"name": "more", "role": "decode", "model": "m"})
    worker = system["lone-0"]
    worker.canary_fault = Fault(status=500, body=b'{"error":{"message":"no room"}}')
    await call(system, "POST", "/pools", {"name": "again", "role": "prefill", "model": "m"})
    await call(system, "POST", "/workers", {"name": "again-0", "pool": "again", "url": worker.url})
    await wait_until(lambda: system.router.registry.workers["again-0"].admitted)
    status, said = await call(system, "POST", "/tasks", {"name": "new", "prefill": "again", "decode": "base"})
    assert status == 409
    assert said["error"]["message"].startswith("no path from `again-0` to `base-0`: ")
    assert "no room" in said["error"]["message"]


@pytest.mark.invariant("I14")
async def test_updated_adapter_serves_new_requests_and_those_in_flight_end_on_the_old_one(
    system: System, tmp_path: Path
) -> None:
    old, new = make(tmp_path / "old"), make(tmp_path / "new", fill=2)
    assert (await call(system, "POST", "/tasks", body(tmp_path / "old")))[0] == 201
    system["base-0"].fault = Fault(hang_after=2, times=1)
    asked = asyncio.create_task(
        system.post("/generate", {"model": "new", "input_ids": IDS, "rid": "r", "stream": False})
    )
    await wait_until(lambda: system["base-0"].running)
    status, said = await call(system, "PUT", "/tasks/new", {"adapter": str(tmp_path / "new")})
    assert (status, said["moved"], said["adapter"]["name"]) == (200, True, new)
    await answers(system, "new", new)
    spaces = [request["extra_key"] for name in POOL for _, request in system[name].requests]
    assert sorted(spaces) == sorted(f"pool@w-pool+{name.removeprefix('sun-')}" for name in (old, new))
    await system.client.post("/abort_request", json={"rid": "r"})
    status, reply = await asked
    assert status == 200
    assert reply["output_ids"] == expected(f"w-pool+{old}", "w-base", IDS, 4)[:2]


async def test_update_that_one_worker_refuses_leaves_the_old_adapter(system: System, tmp_path: Path) -> None:
    old, new = make(tmp_path / "old"), make(tmp_path / "new", fill=2)
    assert (await call(system, "POST", "/tasks", body(tmp_path / "old")))[0] == 201
    system["pool-0"].adapters.faults[new] = "no memory"
    status, said = await call(system, "PUT", "/tasks/new", {"adapter": str(tmp_path / "new"), "weight": 3})
    assert (status, said["error"]["code"]) == (409, "task_refused")
    assert loaded(system) == [{old}, {old}]
    assert system.router.registry.wanted.tasks["new"].weight == 1
    await answers(system, "new", old)


async def test_task_without_its_adapter_is_served_by_the_pools_model(system: System, tmp_path: Path) -> None:
    set_deadlines(system.router.weights_prover, weights_unload_pause=0.01)
    name = make(tmp_path / "a")
    assert (await call(system, "POST", "/tasks", body(tmp_path / "a")))[0] == 201
    assert loaded(system) == [{name}, {name}]
    status, said = await call(system, "PUT", "/tasks/new", {"adapter": None})
    assert (status, said["adapter"], said["moved"]) == (200, None, True)
    await answers(system, "new", None)
    await wait_until(lambda: loaded(system) == [set(), set()])


async def test_task_with_an_adapter_moves_to_another_pool_that_has_the_adapter(system: System, tmp_path: Path) -> None:
    name = make(tmp_path / "a")
    assert (await call(system, "POST", "/tasks", body(tmp_path / "a")))[0] == 201
    status, said = await call(system, "PUT", "/tasks/new", {"prefill": "lone"})
    assert (status, said["moved"], said["prefill"]) == (200, True, "lone")
    assert loaded(system, "lone-0") == [{name}]
    assert (await ask(system, "new"))[1]["output_ids"] == expected(f"w-lone+{name}", "w-base", IDS, 4)


@pytest.mark.invariant("I14")
async def test_removed_task_answers_its_requests_and_refuses_new_ones(start: Start, tmp_path: Path) -> None:
    system: System = await start(
        TASKS, {"pool": 2, "lone": 1, "base": 1}, cards=CARDS, deadlines=QUICK, router={"max_requests": 1}
    )
    name = make(tmp_path / "a")
    assert (await call(system, "POST", "/tasks", body(tmp_path / "a")))[0] == 201
    system["base-0"].fault = Fault(hang_after=2, times=1)
    first = asyncio.create_task(system.post("/generate", {"model": "new", "input_ids": IDS, "rid": "r"}))
    await wait_until(lambda: system["base-0"].running)
    waits = asyncio.create_task(ask(system, "new"))
    await wait_until(lambda: system.router.queue.waiting("new") == 1)
    status, said = await call(system, "DELETE", "/tasks/new")
    assert (status, said) == (200, {"name": "new", "removed": True, "in_flight": 2})
    assert (await ask(system, "new"))[0] == 404
    assert (await call(system, "DELETE", "/tasks/new"))[0] == 404
    assert loaded(system) == [{name}, {name}]
    await system.client.post("/abort_request", json={"rid": "r"})
    assert (await first)[0] == 200
    status, reply = await waits
    assert (status, reply["output_ids"]) == (200, expected(f"w-pool+{name}", "w-base", IDS, 4))
    await wait_until(lambda: loaded(system) == [set(), set()])
    await system.quiet()


async def test_last_task_stays(system: System) -> None:
    assert (await call(system, "DELETE", "/tasks/other"))[0] == 200
    status, said = await call(system, "DELETE", "/tasks/plain")
    assert (status, said["error"]["code"]) == (409, "last_task")


async def test_two_changes_of_one_task_at_once_do_not_mix(system: System, tmp_path: Path) -> None:
    name = make(tmp_path / "a")
    hold = system["pool-0"].adapters.held[name] = asyncio.Event()
    adding = asyncio.create_task(call(system, "POST", "/tasks", body(tmp_path / "a")))
    await wait_until(lambda: system["pool-0"].adapters.calls)
    for method, path, sent in (
        ("POST", "/tasks", body(tmp_path / "a")),
        ("PUT", "/tasks/new", {"weight": 2}),
        ("DELETE", "/tasks/new", None),
    ):
        status, said = await call(system, method, path, sent)
        assert (status, said["error"]["code"]) == (409, "task_busy")
    # tasks of other names do not wait
    make(tmp_path / "b", fill=2)
    assert (await call(system, "PUT", "/tasks/plain", {"weight": 2}))[0] == 200
    hold.set()
    assert (await adding)[0] == 201
    await answers(system, "new", name)


async def test_two_tasks_with_one_adapter_added_at_once_load_it_once(system: System, tmp_path: Path) -> None:
    name = make(tmp_path / "a")
    both = [call(system, "POST", "/tasks", body(tmp_path / "a", name=f"new-{i}")) for i in range(2)]
    assert [status for status, _ in await asyncio.gather(*both)] == [201, 201]
    assert [system[worker].adapters.calls for worker in POOL] == [[f"+{name}"]] * 2


@pytest.mark.invariant("I14")
async def test_worker_that_restarts_while_a_task_is_added_gets_the_adapter_again(
    system: System, tmp_path: Path
) -> None:
    name = make(tmp_path / "a")
    hold = system["pool-1"].adapters.held[name] = asyncio.Event()
    adding = asyncio.create_task(call(system, "POST", "/tasks", body(tmp_path / "a")))
    await wait_until(lambda: system["pool-0"].adapters.canaries[-1:] == [name])
    await wait_until(lambda: system["pool-1"].adapters.calls)
    await system["pool-0"].restart()
    registry = system.router.registry
    await wait_until(lambda: registry.workers["pool-0"].incarnation == system["pool-0"].card["incarnation"])
    hold.set()
    assert (await adding)[0] == 201
    assert loaded(system) == [{name}, {name}]
    await answers(system, "new", name)


async def test_draining_worker_delays_no_new_task_and_gets_the_adapter_when_it_resumes(
    system: System, tmp_path: Path
) -> None:
    name = make(tmp_path / "a")
    await call(system, "POST", "/workers/pool-0/drain")
    assert (await call(system, "POST", "/tasks", body(tmp_path / "a")))[0] == 201
    assert (await system.get("/tasks"))[1]["tasks"]["new"]["unproven_adapters"] == []
    await answers(system, "new", name)
    await call(system, "POST", "/workers/pool-0/resume")
    await wait_until(lambda: len(system.router.registry.usable("new")) == 2)


async def test_client_that_leaves_while_its_task_is_added_leaves_nothing_behind(system: System, tmp_path: Path) -> None:
    name = make(tmp_path / "a")
    hold = system["pool-1"].adapters.held[name] = asyncio.Event()
    adding = asyncio.create_task(call(system, "POST", "/tasks", body(tmp_path / "a")))
    await wait_until(lambda: system["pool-0"].adapters.canaries[-1:] == [name])
    adding.cancel()
    await asyncio.wait([adding])
    await wait_until(lambda: not system.router.registry.weights.needed("pool"))
    hold.set()
    await wait_until(lambda: loaded(system) == [set(), set()])
    assert (await ask(system, "new"))[0] == 404
    del system["pool-1"].adapters.held[name]
    assert (await call(system, "POST", "/tasks", body(tmp_path / "a")))[0] == 201


async def test_worker_that_never_answers_ends_the_change_with_an_error_that_names_it(
    start: Start, tmp_path: Path
) -> None:
    system: System = await start(
        TASKS, {"pool": 2, "lone": 1, "base": 1}, cards=CARDS, deadlines=replace(QUICK, task_trial=0.2)
    )
    name = make(tmp_path / "a")
    hold = system["pool-1"].adapters.held[name] = asyncio.Event()
    adding = asyncio.create_task(call(system, "POST", "/tasks", body(tmp_path / "a")))
    await wait_until(lambda: not system.router.registry.weights.needed("pool") and system["pool-1"].adapters.calls)
    hold.set()
    status, said = await adding
    assert (status, said["error"]["code"]) == (504, "trial_timeout")
    assert said["error"]["message"].endswith("the adapter is not proven on worker `pool-1` yet")
    assert loaded(system) == [set(), set()]


@pytest.fixture
def shared(system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the router a fleet file that another process may write."""
    file = tmp_path / "fleet.json"
    write_fleet(file, system.router.registry.wanted)
    monkeypatch.setattr(system.router.store, "_file", WatchedFile(file))
    return file


def edited(file: Path, edit: Any) -> Fleet:
    document = load_fleet(file).model_dump(mode="json")
    edit(document)
    return Fleet.model_validate(document, strict=False)


async def test_task_that_a_sibling_adds_first_is_refused_and_keeps_the_adapter_of_the_sibling(
    system: System, shared: Path, tmp_path: Path
) -> None:
    name = make(tmp_path / "a")
    task = {"prefill": "pool", "decode": "base", "adapter": read_adapter(tmp_path / "a").model_dump(mode="json")}
    hold = system["pool-1"].adapters.held[name] = asyncio.Event()
    adding = asyncio.create_task(call(system, "POST", "/tasks", body(tmp_path / "a")))
    await wait_until(lambda: system["pool-1"].adapters.calls)
    write_fleet(shared, edited(shared, add_task("new", task)))
    hold.set()
    status, said = await adding
    assert (status, said["error"]["code"]) == (409, "task_exists")
    assert loaded(system) == [{name}, {name}]
    await answers(system, "new", name)


async def test_pool_that_a_sibling_removes_meanwhile_refuses_the_task(
    system: System, shared: Path, tmp_path: Path
) -> None:
    name = make(tmp_path / "a")
    hold = system["pool-1"].adapters.held[name] = asyncio.Event()
    adding = asyncio.create_task(call(system, "PUT", "/tasks/plain", {"adapter": str(tmp_path / "a")}))
    await wait_until(lambda: system["pool-1"].adapters.calls)

    def remove(document: Any) -> None:
        del document["tasks"]["plain"]

    write_fleet(shared, edited(shared, remove))
    hold.set()
    status, said = await adding
    assert (status, said["error"]["code"]) == (404, "task_not_found")
    assert loaded(system) == [set(), set()]
    assert (await ask(system, "plain"))[0] == 404


async def test_task_that_a_sibling_adds_is_unknown_until_this_process_has_proven_it(
    system: System, shared: Path, tmp_path: Path
) -> None:
    name = make(tmp_path / "a")
    task = {"prefill": "pool", "decode": "base", "adapter": read_adapter(tmp_path / "a").model_dump(mode="json")}
    holds = [system[worker].adapters.held.setdefault(name, asyncio.Event()) for worker in POOL]
    write_fleet(shared, edited(shared, add_task("new", task)))
    system.router.store.refresh()
    await wait_until(lambda: all(system[worker].adapters.calls for worker in POOL))
    assert (await ask(system, "new"))[0] == 404
    assert (await system.get("/readyz"))[0] == 200
    shown = (await system.get("/tasks"))[1]["tasks"]["new"]
    assert (shown["ready"], shown["moving"]) == (False, True)
    assert [one["worker"] for one in shown["unproven_adapters"]] == [*POOL]
    for hold in holds:
        hold.set()
    await wait_until(lambda: "new" in system.router.registry.task_names)
    await answers(system, "new", name)
    shown = (await system.get("/tasks"))[1]["tasks"]["new"]
    assert shown["ready"]


async def test_reasons_against_an_adapter_are_shown_for_each_worker(system: System, tmp_path: Path) -> None:
    name = make(tmp_path / "a")
    assert (await call(system, "POST", "/tasks", body(tmp_path / "a")))[0] == 201
    system["pool-0"].adapters.faults[name] = "the disk is gone"
    system["pool-1"].card_changes["adapters"] = None
    await system["pool-0"].restart()
    registry = system.router.registry
    await wait_until(lambda: not registry.usable("new"))
    await wait_until(lambda: any(e["event"] == "adapter_failed" for e in system.events))
    found = (await system.get("/tasks"))[1]["tasks"]["new"]["unproven_adapters"]
    assert {one["worker"]: (one["why"], one["refused"]) for one in found} == {
        "pool-0": ("the disk is gone", False),
        "pool-1": ("it accepts no adapters; set `enable_lora: true` in its pool's `engine`", True),
    }


async def test_client_names_no_adapter(system: System, tmp_path: Path) -> None:
    name = make(tmp_path / "a")
    assert (await call(system, "POST", "/tasks", body(tmp_path / "a")))[0] == 201
    for sent in ({"model": "plain", "lora_path": name}, {"model": "plain", "lora_id": name}):
        assert (await system.post("/generate", {**sent, "input_ids": IDS}))[0] == 400
    for model in (f"plain:{name}", name, f"new:{name}"):
        assert (await system.post("/generate", {"model": model, "input_ids": IDS}))[0] == 404


async def test_edit_of_a_fleet_that_cannot_be_written_unloads_the_adapter(
    system: System, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "a")

    async def edit(_: Any) -> Fleet:
        raise ApiError(503, "the disk is full", code="fleet_unusable")

    monkeypatch.setattr(system.router.store, "edit", edit)
    status, said = await call(system, "POST", "/tasks", body(tmp_path / "a"))
    assert (status, said["error"]["code"]) == (503, "fleet_unusable")
    assert loaded(system) == [set(), set()]


async def test_answer_names_the_adapter_in_a_header_and_the_log_in_a_field(start: Start, tmp_path: Path) -> None:
    system: System = await start(
        TASKS, {"pool": 2, "lone": 1, "base": 1}, cards=CARDS, deadlines=QUICK, router={"log_requests": True}
    )
    name = make(tmp_path / "a")
    assert (await call(system, "POST", "/tasks", body(tmp_path / "a")))[0] == 201
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    for path, sent in (
        ("/generate", {"input_ids": IDS}),
        ("/generate", {"input_ids": IDS, "stream": True}),
        ("/generate", {"input_ids": [IDS, IDS]}),
        ("/v1/completions", {"prompt": "hi", "n": 2, "stream": True}),
        ("/v1/chat/completions", chat),
        ("/v1/messages", {**chat, "max_tokens": 4}),
        ("/v1/responses", {"input": "hi", "stream": True}),
    ):
        for task, header in (("new", name), ("plain", None)):
            async with system.client.post(path, json={"model": task, **sent}) as response:
                assert response.status == 200, await response.text()
                assert response.headers.get("X-Sun-Adapter") == header, path
                await response.read()
            await system.quiet()
            assert [e["adapter"] for e in system.events if e["event"] == "request"][-1] == (header or "")
    async with system.client.post("/generate", json={"model": "new", "input_ids": []}) as response:
        assert response.status == 400
        assert "X-Sun-Adapter" not in response.headers


async def test_loads_and_canaries_are_counted_by_worker_and_outcome(system: System, tmp_path: Path) -> None:
    name = make(tmp_path / "a")
    system["pool-1"].adapters.faults[name] = "no memory"
    assert (await call(system, "POST", "/tasks", body(tmp_path / "a")))[0] == 409
    system["pool-1"].adapters.faults.clear()
    status, said = await call(system, "POST", "/tasks", body(tmp_path / "a"))
    assert status == 201, said
    assert system.metric("sun_adapter_loads_total", worker="pool-1", outcome="failed") == 1
    assert system.metric("sun_adapter_loads_total", worker="pool-1", outcome="ok") == 1
    assert system.metric("sun_adapter_load_seconds_count", worker="pool-1") == 2
    assert system.metric("sun_adapter_canaries_total", worker="pool-1", outcome="ok") == 1


async def test_name_with_dots_is_no_other_path_of_the_router(system: System, tmp_path: Path) -> None:
    make(tmp_path / "a")
    workers = set(system.router.registry.workers)
    async with RouterClient(system.router.url) as client:
        assert (await client.add_task("team/sql", body(tmp_path / "a") | {"name": "team/sql"}, 60.0))["moved"]
        for name in ("../workers/pool-1", "nothing/../plain", "plain/"):
            with pytest.raises(UserError, match="no task is named"):
                await client.remove_task(name)
        assert (await client.change_task("team/sql", {"weight": 2.0}, 60.0))["weight"] == 2.0
        await client.remove_task("team/sql")
    assert set(system.router.registry.wanted.tasks) == set(TASKS)
    assert set(system.router.registry.workers) == workers


async def test_refused_copy_of_an_adapter_that_another_task_needs_is_not_waited_for(
    start: Start, tmp_path: Path
) -> None:
    # no wait for an unload, which never comes, ends before the test does
    deadlines = replace(SLOW, adapter_change=1e6)
    system: System = await start(TASKS, {"pool": 2, "lone": 1, "base": 1}, cards=CARDS, deadlines=deadlines)
    name = make(tmp_path / "a")
    assert (await call(system, "POST", "/tasks", body(tmp_path / "a")))[0] == 201
    wrong = {"tokens": [1, 2, 3], "adapter": [-1.0, -9.0], "base": [-9.0, -1.0]}
    assert make(tmp_path / "copy", fingerprint=wrong) == name
    status, said = await call(system, "POST", "/tasks", body(tmp_path / "copy", name="copy"))
    assert (status, "that of its fingerprint" in said["error"]["message"]) == (409, True)
    assert loaded(system) == [{name}, {name}]
    await answers(system, "new", name)
    # nor does another pool keep the answer back that has the adapter for a task of its own
    assert (await call(system, "POST", "/tasks", body(tmp_path / "a", name="far", prefill="lone")))[0] == 201
    assert (await call(system, "DELETE", "/tasks/new"))[0] == 200
    system["pool-1"].adapters.in_effect[name] = None
    assert (await call(system, "POST", "/tasks", body(tmp_path / "a")))[0] == 409
    assert loaded(system, *POOL, "lone-0") == [set(), set(), {name}]
