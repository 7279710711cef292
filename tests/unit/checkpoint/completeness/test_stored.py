from __future__ import annotations

import json
from pathlib import Path

import pytest

from sun_sglang.checkpoint.completeness.stored import INDEX, missing_shards, read_stored
from sun_sglang.errors import CheckpointError
from tests.conftest import safetensors

ONE = {"model.norm.weight": b"1234", "lm_head.weight": b"12345678"}


def write_shards(model: Path, names: dict[str, str]) -> None:
    """Write an index of tensor names to files, and each file with its tensors."""
    (model / INDEX).write_text(json.dumps({"weight_map": names}))
    for file in set(names.values()):
        (model / file).write_bytes(safetensors({name: b"12" for name, shard in names.items() if shard == file}))


def test_tensors_of_all_files_are_listed(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(safetensors(ONE))
    found = read_stored(tmp_path)
    assert {name: tensor.shape for name, tensor in found.items()} == {"model.norm.weight": (4,), "lm_head.weight": (8,)}


@pytest.mark.parametrize("cut", [1, 8])
def test_truncated_file_is_named(tmp_path: Path, cut: int) -> None:
    (tmp_path / "model.safetensors").write_bytes(safetensors(ONE)[:-cut])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: has .* bytes, and its header describes"):
        read_stored(tmp_path)


@pytest.mark.parametrize("length", [0, 4, 20])
def test_file_without_a_whole_header_is_named(tmp_path: Path, length: int) -> None:
    (tmp_path / "model.safetensors").write_bytes(safetensors(ONE)[:length])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read"):
        read_stored(tmp_path)


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ('{"a.weight": 5}', "its header describes `a.weight` without a type, a shape and two offsets"),
        ('{"a.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}', ".*`a.weight` without"),
        ('{"a.weight": {"dtype": "F32", "shape": [1.5], "data_offsets": [0, 4]}}', ".*`a.weight` without"),
        ('{"a.weight": {"dtype": 1, "shape": [1], "data_offsets": [0, 4]}}', ".*`a.weight` without"),
        ("[1]", "its header is not a JSON object"),
        ("[" * 100_000, "its header is nested too deeply"),
    ],
)
def test_header_of_another_form_is_named(tmp_path: Path, header: str, problem: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header.encode())
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: cannot be read \({problem}"):
        read_stored(tmp_path)


def test_tensor_whose_bytes_do_not_fit_its_shape_is_named(tmp_path: Path) -> None:
    content = safetensors(ONE).replace(b'"shape": [8]', b'"shape": [7]')
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"`lm_head\.weight` has 8 bytes"):
        read_stored(tmp_path)


def test_missing_shard_of_the_index_is_named(tmp_path: Path) -> None:
    write_shards(
        tmp_path, {"a.weight": "model-00001-of-00002.safetensors", "b.weight": "model-00002-of-00002.safetensors"}
    )
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    assert missing_shards(tmp_path) == ["model-00002-of-00002.safetensors"]
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors: not found"):
        read_stored(tmp_path)


def test_missing_shard_without_an_index_is_named(tmp_path: Path) -> None:
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(safetensors(ONE))
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors: not found"):
        read_stored(tmp_path)


def test_tensor_of_the_index_that_its_file_lacks_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path, {"a.weight": "one.safetensors"})
    (tmp_path / INDEX).write_text(
        json.dumps({"weight_map": {"a.weight": "one.safetensors", "b.weight": "one.safetensors"}})
    )
    with pytest.raises(CheckpointError, match=r"`b\.weight` is not in one\.safetensors"):
        read_stored(tmp_path)


@pytest.mark.parametrize("names", [[], {"a": 1}, {"a": "../other/model.safetensors"}])
def test_index_of_another_form_is_named(tmp_path: Path, names: object) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": names}))
    with pytest.raises(CheckpointError, match=INDEX):
        read_stored(tmp_path)


def test_second_copy_of_the_weights_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(safetensors(ONE))
    (tmp_path / "consolidated.safetensors").write_bytes(safetensors({"other": b"1"}))
    assert "other" not in read_stored(tmp_path)
