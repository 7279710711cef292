"""A worker loads an adapter of the router only with the content that its name states, and only on its base."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from sun_sglang.checkpoint.adapter.read import read_adapter
from sun_sglang.patches.lora.verified_load import load_verified
from tests.support.adapters import weights, write_adapter, write_base


@pytest.fixture(autouse=True)
def messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for the module of SGLang that has the messages; its import takes seconds."""
    module = ModuleType("sglang.srt.managers.io_struct")
    made = lambda **fields: SimpleNamespace(**fields)  # noqa: E731 - two names for one constructor
    vars(module).update(LoadLoRAAdapterReqOutput=made, UnloadLoRAAdapterReqInput=made)
    for name in ("sglang", "sglang.srt", "sglang.srt.managers"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)


class Manager:
    """SGLang's tokenizer manager.

    Attributes:
        loaded: names of the loaded adapters.
        while_loading: called when the schedulers load.
    """

    def __init__(self, model: Path) -> None:
        self.model_path = str(model)
        self.server_args = SimpleNamespace(revision=None)
        self.loaded: list[str] = []
        self.while_loading: Callable[[], object] = lambda: None

    async def load(self, obj: Any, _request: Any = None) -> Any:
        self.while_loading()
        self.loaded.append(obj.lora_name)
        return SimpleNamespace(success=True, error_message=None)

    async def unload_lora_adapter(self, obj: Any) -> Any:
        self.loaded.remove(obj.lora_name)


async def load(manager: Manager, name: str, directory: Path) -> str:
    """Load an adapter; return the error, empty for none."""
    obj = SimpleNamespace(lora_name=name, lora_path=str(directory))
    result = await load_verified(Manager.load, manager, obj, None)
    assert result.success == (not result.error_message)
    return str(result.error_message or "")


@pytest.fixture
def manager(tmp_path: Path) -> Manager:
    return Manager(write_base(tmp_path / "base"))


async def test_adapter_with_the_content_of_its_name_is_loaded(manager: Manager, tmp_path: Path) -> None:
    name = read_adapter(write_adapter(tmp_path / "a")).name
    assert await load(manager, name, tmp_path / "a") == ""
    assert manager.loaded == [name]


async def test_other_content_under_a_name_is_refused(manager: Manager, tmp_path: Path) -> None:
    name = read_adapter(write_adapter(tmp_path / "a")).name
    other = read_adapter(write_adapter(tmp_path / "a", fill=2)).name
    assert await load(manager, name, tmp_path / "a") == (
        f"{tmp_path / 'a'}: its content is {other}, and it was to be loaded as {name}"
    )
    assert manager.loaded == []


async def test_adapters_of_operators_are_loaded_as_they_are(manager: Manager, tmp_path: Path) -> None:
    assert await load(manager, "mine", tmp_path / "absent") == ""
    assert manager.loaded == ["mine"]


async def test_adapter_that_is_gone_or_truncated_is_refused(manager: Manager, tmp_path: Path) -> None:
    name = read_adapter(write_adapter(tmp_path / "a")).name
    file = tmp_path / "a" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert "and its header describes" in await load(manager, name, tmp_path / "a")
    file.unlink()
    assert "adapter_model.safetensors: " in await load(manager, name, tmp_path / "a")
    assert "is not a directory" in await load(manager, name, tmp_path / "b")
    assert manager.loaded == []


async def test_adapter_of_another_base_is_refused(manager: Manager, tmp_path: Path) -> None:
    shapes = {f"base_model.model.model.layers.{i}.mlp.down_proj.lora_{s}.weight": (2, 2) for i in (0, 1) for s in "AB"}
    name = read_adapter(write_adapter(tmp_path / "a", shapes=shapes, modules=("mlp.down_proj",))).name
    assert "it is an adapter of another model" in await load(manager, name, tmp_path / "a")
    assert manager.loaded == []


async def test_base_that_cannot_be_compared_is_no_reason_to_refuse(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    name = read_adapter(write_adapter(tmp_path / "a")).name
    (base / "model.safetensors").write_bytes(weights({"blk.0.attn_q.weight": (8, 8)}))
    assert await load(Manager(base), name, tmp_path / "a") == ""
    assert await load(Manager(Path("/no/such/model")), name, tmp_path / "a") == ""


async def test_directory_that_changes_while_it_is_loaded_is_unloaded_again(manager: Manager, tmp_path: Path) -> None:
    name = read_adapter(write_adapter(tmp_path / "a")).name
    manager.while_loading = lambda: write_adapter(tmp_path / "a", fill=3)
    assert "changed while" in await load(manager, name, tmp_path / "a")
    assert manager.loaded == []
