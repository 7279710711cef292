"""The tensors of a module in shared memory are mapped and not read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sun_sglang.patches.modules.mapped import MappedModule


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    one = {"a": torch.randn(3, 5), "b": torch.arange(7, dtype=torch.bfloat16), "c": torch.tensor(2.5)}
    save_file(one, tmp_path / "model-1.safetensors")
    save_file(
        {"d": torch.ones(2, 2, dtype=torch.float16), "empty": torch.zeros(0, 4)}, tmp_path / "model-2.safetensors"
    )
    return tmp_path


def test_values_equal_those_of_the_files(directory: Path) -> None:
    from safetensors.torch import load_file

    found = dict(MappedModule(directory, pinned=False))
    expected = {name: value for file in directory.glob("*.safetensors") for name, value in load_file(file).items()}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value), name


def test_values_follow_the_memory_and_are_no_copy(directory: Path) -> None:
    found = dict(MappedModule(directory, pinned=False))
    before = found["a"].clone()
    file = directory / "model-1.safetensors"
    content = bytearray(file.read_bytes())
    with file.open("r+b") as out:
        out.write(bytes(content[:-60]) + b"\0" * 60)
    assert not torch.equal(found["a"], before) or not torch.equal(found["b"], torch.arange(7, dtype=torch.bfloat16))


def test_values_need_no_alignment_in_the_file(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    header += b" " * (3 - len(header) % 8 % 4)
    values = torch.tensor([1.5, -2.0])
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + values.numpy().tobytes())
    assert torch.equal(dict(MappedModule(tmp_path, pinned=False))["a"], values)


def test_only_the_files_of_the_index_are_mapped(directory: Path) -> None:
    index = {"weight_map": {"d": "model-2.safetensors", "empty": "model-2.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    assert dict(MappedModule(directory, pinned=False)).keys() == {"d", "empty"}


def test_closed_module_has_no_tensors(directory: Path) -> None:
    module = MappedModule(directory, pinned=False)
    module.close()
    assert list(module) == []
