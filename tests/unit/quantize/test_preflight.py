from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from sun_sglang.errors import QuantizeError
from sun_sglang.quantize import preflight
from sun_sglang.quantize.preflight import find_source, free_memory, needed_memory, require_memory, require_place


def with_config(source: Path, target: Path, **change: Any) -> Path:
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | change))
    return target


def test_model_already_quantized_is_refused(source: Path, tmp_path: Path) -> None:
    model = with_config(source, tmp_path / "m", quantization_config={"quant_method": "awq"})
    with pytest.raises(QuantizeError, match=r"is already quantized \(awq\)"):
        find_source(str(model), 128)


def test_model_of_other_architecture_is_refused_with_known_ones(source: Path, tmp_path: Path) -> None:
    model = with_config(source, tmp_path / "m", architectures=["MixtralForCausalLM"])
    with pytest.raises(QuantizeError, match="MixtralForCausalLM is not supported; supported are `LlamaForCausalLM`"):
        find_source(str(model), 128)


def test_model_that_is_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QuantizeError, match="is neither a directory nor in the Hugging Face cache"):
        find_source(str(tmp_path / "none"), 128)


def test_group_size_that_no_kernel_takes_is_refused(source: Path) -> None:
    with pytest.raises(QuantizeError, match="--group-size 48: SGLang serves groups of 32, 64, 128"):
        find_source(str(source), 48)


def test_output_that_exists_or_lies_in_model_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(QuantizeError, match="exists; remove it"):
        require_place(tmp_path, source, 1)
    with pytest.raises(QuantizeError, match="lies in the model's directory"):
        require_place(source / "out", source, 1)
    with pytest.raises(QuantizeError, match="File name too long"):
        require_place(tmp_path / ("x" * 300), source, 1)
    require_place(tmp_path / "new" / "out", source, 1)


def test_full_disk_is_refused(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: usage(1, 1, 10**9))
    with pytest.raises(QuantizeError, match=r"1\.0 GB of the disk are free, and the checkpoint needs 1\.1 GB"):
        require_place(tmp_path / "out", source, 10**9)
    require_place(tmp_path / "out", source, 9 * 10**8)


def test_too_little_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "free_memory", lambda: 2 * 10**9)
    require_memory(2 * 10**9)
    with pytest.raises(QuantizeError, match=r"2\.0 GB of memory are free, and this quantization needs about 3\.0 GB"):
        require_memory(3 * 10**9)


def test_free_memory_is_least_of_machine_and_container(tmp_path: Path) -> None:
    machine = free_memory(tmp_path)
    assert machine > 1000
    (tmp_path / "memory.current").write_text("400\n")
    (tmp_path / "memory.max").write_text("1000\n")
    assert free_memory(tmp_path) == 600
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(tmp_path) > 1000


def test_needed_memory_grows_with_samples_by_algorithm(source: Path) -> None:
    _, plan = find_source(str(source), 128)
    few, many = [(1,) * 512] * 8, [(1,) * 512] * 256
    for algorithm in ("awq", "gptq"):
        assert needed_memory(source, plan, algorithm, few, few) < needed_memory(source, plan, algorithm, many, few)
    assert needed_memory(source, plan, "rtn", (), few) < needed_memory(source, plan, "gptq", few, few)
