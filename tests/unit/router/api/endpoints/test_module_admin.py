"""Tasks with modules of their own that are added and changed over the admin API: all workers or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sun_sglang.bench.polling import wait_until
from sun_sglang.checkpoint.module.read import read_module
from tests.support.adapters import write_adapter
from tests.unit.router.api.endpoints.test_task_admin import IDS, POOL, SLOW, answers, ask
from tests.unit.router.conftest import Start, System, set_deadlines
from tests.unit.router.fake_worker import expected
from tests.unit.router.fleet_api import call
from tests.unit.router.weights_refs import LIMITS, MODULE_LIMITS

TASKS = {"plain": ("pool", "base"), "other": ("lone", "base")}
CARDS = {name: {"adapters": LIMITS, "modules": MODULE_LIMITS} for name in ("pool-0", "pool-1")}


@pytest.fixture
async def system(start: Start) -> System:
    found: System = await start(TASKS, {"pool": 2, "lone": 1, "base": 1}, cards=CARDS, deadlines=SLOW)
    return found


def make(directory: Path, fill: int = 1) -> str:
    """Write files that pass for a checkpoint, and return the revision."""
    directory.mkdir()
    header = b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    (directory / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes([fill]))
    (directory / "config.json").write_text("{}")
    return read_module(directory).revision


def body(directory: Path, **fields: Any) -> dict[str, Any]:
    return {"name": "new", "prefill": "pool", "decode": "base", "model": str(directory), **fields}


def given(system: System) -> list[set[str]]:
    return [set(system[name].modules.given) for name in POOL]


async def is_served_by(system: System, task: str, module: str) -> None:
    status, reply = await ask(system, task)
    assert status == 200, reply
    assert reply["output_ids"] == expected(f"w-pool*{module}", "w-base", IDS, 4)


@pytest.mark.invariant("I23")
async def test_added_task_with_a_module_is_announced_once_every_worker_has_it_in_effect(
    system: System, tmp_path: Path
) -> None:
    revision = make(tmp_path / "m")
    status, said = await call(system, "POST", "/tasks", body(tmp_path / "m"))
    assert (status, said["moved"]) == (201, True)
    assert said["module"] == {"revision": revision, "directory": str(tmp_path / "m")}
    assert said["adapter"] is None
    assert given(system) == [{revision}, {revision}]
    await is_served_by(system, "new", revision)
    await answers(system, "plain", None)


@pytest.mark.invariant("I14")
@pytest.mark.parametrize("fault", ["shape", "no modules", "no effect"])
async def test_module_that_one_worker_refuses_changes_nothing_on_any(
    system: System, tmp_path: Path, fault: str
) -> None:
    revision, before = make(tmp_path / "m"), system.router.registry.wanted
    shape = f"{tmp_path}/m: `lm_head.weight` has another shape"
    words = {
        "shape": f"worker `pool-1` did not take the module: {shape}",
        "no modules": "worker `lone-0` cannot serve the module: it serves its own model alone",
        "no effect": "did not take the module: ",
    }[fault]
    pool = "lone" if fault == "no modules" else "pool"
    if fault == "shape":
        system["pool-1"].modules.faults[revision] = shape
    elif fault == "no effect":
        system["pool-1"].modules.in_effect[revision] = None
    status, said = await call(system, "POST", "/tasks", body(tmp_path / "m", prefill=pool))
    assert (status, said["error"]["code"]) == (409, "task_refused")
    assert words in said["error"]["message"]
    assert given(system) == [set(), set()]
    assert system.router.registry.wanted is before
    assert (await ask(system, "new"))[0] == 404
    # the same call works once the cause is gone, without a pause
    system["pool-1"].modules.faults.clear()
    system["pool-1"].modules.in_effect.clear()
    assert (await call(system, "POST", "/tasks", body(tmp_path / "m")))[0] == 201


async def test_directory_without_a_checkpoint_is_one_error_before_any_work(system: System, tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapter", fill=1, modules=("self_attn.q_proj",))
    for name in ("none", "adapter"):
        status, said = await call(system, "POST", "/tasks", body(tmp_path / name))
        assert (status, said["error"]["code"], said["error"]["param"]) == (400, "model_refused", "model")
        assert str(tmp_path / name) in said["error"]["message"]
    assert [system[name].modules.calls for name in POOL] == [[], []]


async def test_task_has_an_adapter_or_a_model_and_not_both(system: System, tmp_path: Path) -> None:
    both = body(tmp_path / "m", adapter=str(tmp_path / "a"))
    for method, path, sent in (
        ("POST", "/tasks", both),
        ("PUT", "/tasks/plain", {k: both[k] for k in ("model", "adapter")}),
    ):
        status, said = await call(system, method, path, sent)
        assert (status, said["error"]["code"]) == (400, "invalid_change")
        assert "a task has an adapter or a model of its own, and not both" in said["error"]["message"]


async def test_changed_task_moves_between_modules_and_adapters(system: System, tmp_path: Path) -> None:
    first, second = make(tmp_path / "m"), make(tmp_path / "n", fill=2)
    write_adapter(tmp_path / "a", fill=1, modules=("self_attn.q_proj",))
    assert (await call(system, "POST", "/tasks", body(tmp_path / "m")))[0] == 201
    status, said = await call(system, "PUT", "/tasks/new", {"model": str(tmp_path / "n")})
    assert (status, said["module"]["revision"]) == (200, second)
    await is_served_by(system, "new", second)
    status, said = await call(system, "PUT", "/tasks/new", {"adapter": str(tmp_path / "a")})
    assert (status, said["module"]) == (200, None)
    await answers(system, "new", said["adapter"]["name"])
    status, said = await call(system, "PUT", "/tasks/new", {"model": str(tmp_path / "m")})
    assert (status, said["adapter"], said["module"]["revision"]) == (200, None, first)
    await is_served_by(system, "new", first)
    # neither a change of something else nor the removal of what it does not have touches the module
    for change in ({"weight": 2}, {"adapter": None}):
        status, said = await call(system, "PUT", "/tasks/new", change)
        assert (status, said["module"]["revision"]) == (200, first)
    status, said = await call(system, "PUT", "/tasks/new", {"model": None})
    assert (status, said["module"]) == (200, None)
    await answers(system, "new", None)


async def test_module_that_is_the_pools_model_is_no_weights_of_its_own(start: Start, tmp_path: Path) -> None:
    revision = make(tmp_path / "m")
    cards = {name: {**CARDS[name], "identity": {"weights": revision}} for name in POOL}
    system: System = await start({"plain": ("pool", "base")}, {"pool": 2, "base": 1}, cards=cards, deadlines=SLOW)
    status, said = await call(system, "POST", "/tasks", body(tmp_path / "m"))
    assert (status, said["module"]) == (201, None)
    assert (await call(system, "PUT", "/tasks/plain", {"model": str(tmp_path / "m")}))[1]["module"] is None
    assert given(system) == [set(), set()]
    assert (await ask(system, "new"))[0] == 200


async def test_equal_weights_with_another_configuration_are_another_model(system: System, tmp_path: Path) -> None:
    make(tmp_path / "m")
    make(tmp_path / "n")
    assert (await call(system, "POST", "/tasks", body(tmp_path / "m")))[0] == 201
    assert (await call(system, "POST", "/tasks", body(tmp_path / "n", name="equal")))[0] == 201
    (tmp_path / "n" / "config.json").write_text('{"rope_theta": 5}')
    status, said = await call(system, "POST", "/tasks", body(tmp_path / "n", name="third"))
    assert (status, said["error"]["code"]) == (400, "model_refused")
    assert "`rope_theta` is 5" in said["error"]["message"]
    # what is not about the module does not read it again
    assert (await call(system, "PUT", "/tasks/equal", {"weight": 2}))[0] == 200


async def test_removed_task_gives_its_module_back(system: System, tmp_path: Path) -> None:
    revision = make(tmp_path / "m")
    set_deadlines(system.router.weights_prover, weights_unload_pause=0.01)
    assert (await call(system, "POST", "/tasks", body(tmp_path / "m")))[0] == 201
    assert (await call(system, "DELETE", "/tasks/new"))[0] == 200
    await wait_until(lambda: given(system) == [set(), set()])
    assert f"-{revision}" in system["pool-0"].modules.calls
