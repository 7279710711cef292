"""Quantised weights on a CPU: a format that its workers cannot serve is one error before they start."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from sun_sglang.errors import CheckpointError
from sun_sglang.launch.planning.hardware.gpu_inventory import Gpu
from sun_sglang.launch.planning.hardware.machine import Machine
from sun_sglang.launch.planning.preflight import preflight
from sun_sglang.topology import Topology
from sun_sglang.topology_file import parse_topology

Write = Callable[..., Path]
CPU = Machine(cores=2, memory=1 << 34)
GPUS = tuple(Gpu(index=i, uuid=f"GPU-{i}", name="NVIDIA A100", memory_mb=81920) for i in range(2))


@pytest.fixture(autouse=True)
def machine_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sun_sglang.launch.planning.preflight.require_complete", lambda *_: "")
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sgl_kernel" else found(name))


def quantization(group: Mapping[str, Any] | None = None, **weights: Any) -> dict[str, Any]:
    """Return a configuration of W4A16 with changes to its group or to its weights."""
    given = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 128, "actorder": None}
    groups = {"group_0": {"targets": ["Linear"], "weights": given | weights, "input_activations": None} | (group or {})}
    return {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups}


def topology(write: Write, config: Mapping[str, Any], engine: str = "{}") -> Topology:
    model = write("packed", config)
    text = f"""
pools:
  math: {{role: prefill, model: {write("plain")}}}
  base: {{role: decode, model: {model}, engine: {engine}}}
tasks:
  sums: {{prefill: math, decode: base}}
"""
    return parse_topology(text, base=Path("/nowhere"))


def check(write: Write, config: Mapping[str, Any], machine: Machine = CPU, engine: str = "{}") -> tuple[str, ...]:
    return preflight(topology(write, config, engine), machine, None).notes[1:]


@pytest.mark.parametrize("group_size", [32, 64, 128, 256])
def test_four_bits_in_groups_of_the_kernel_pass_without_a_note(write_checkpoint: Write, group_size: int) -> None:
    assert check(write_checkpoint, {"quantization_config": quantization(group_size=group_size)}) == ()


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ({"num_bits": 8}, "integers of 4 bits, not of 8"),
        ({"strategy": "channel", "group_size": None}, "not one scale for each row"),
        ({"group_size": 16}, "not groups of 16"),
        ({"symmetric": False}, "without zero points"),
        ({"actorder": "group"}, "not `actorder: group`"),
    ],
)
def test_format_that_is_served_unpacked_is_noted_with_the_reason(
    write_checkpoint: Write, weights: dict[str, Any], reason: str
) -> None:
    (note,) = check(write_checkpoint, {"quantization_config": quantization(**weights)})
    assert note.startswith("`base`: its weights are unpacked when they are loaded")
    assert reason in note


def test_order_of_activations_that_permutes_no_group_passes_without_a_note(write_checkpoint: Write) -> None:
    assert check(write_checkpoint, {"quantization_config": quantization(actorder="static")}) == ()


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "no kernel for `awq` weights"),
        ({"quantization_config": quantization(num_bits=3)}, "`config_groups.group_0` has weights of 3 bits"),
        ({"quantization_config": quantization(type="float")}, "`float` weights in the format `pack-quantized`"),
        ({"quantization_config": quantization(strategy="tensor")}, "scales of the strategy `tensor`"),
        (
            {"quantization_config": quantization({"input_activations": {"num_bits": 8}})},
            "`config_groups.group_0` quantises activations",
        ),
        (
            {"quantization_config": quantization({"format": "marlin-24"})},
            "`int` weights in the format `marlin-24`",
        ),
        ({"quantization_config": quantization(), "num_experts": 8}, "a model with experts"),
    ],
)
def test_format_that_a_cpu_cannot_serve_is_named_with_its_pool_and_a_fix(
    write_checkpoint: Write, config: dict[str, Any], reason: str
) -> None:
    with pytest.raises(CheckpointError, match=r"^pools\.base\.model: a CPU cannot serve these weights: ") as caught:
        check(write_checkpoint, config)
    assert reason in str(caught.value)
    assert "`sun quantize`" in str(caught.value)


def test_format_of_a_worker_on_a_gpu_is_not_checked(write_checkpoint: Write) -> None:
    machine = Machine(cores=2, memory=1 << 34, gpus=GPUS, transfer_packages=frozenset({"nixl"}))
    assert check(write_checkpoint, {"quantization_config": {"quant_method": "awq", "bits": 4}}, machine) == ()


def test_configuration_that_is_no_description_names_its_key(write_checkpoint: Write) -> None:
    broken = {"quantization_config": quantization(num_bits="four")}
    with pytest.raises(CheckpointError, match=r"pools\.base\.model: .*config_groups\.group_0\.weights\.num_bits"):
        check(write_checkpoint, broken)


def test_flag_that_quantises_while_loading_is_refused_on_a_cpu(write_checkpoint: Write) -> None:
    with pytest.raises(CheckpointError, match=r"`quantization: fp8`"):
        check(write_checkpoint, {}, engine="{quantization: fp8}")


def test_build_of_sglang_with_kernels_for_cpus_is_not_checked(
    write_checkpoint: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object())
    assert check(write_checkpoint, {"quantization_config": {"quant_method": "awq", "bits": 4}}) == ()
