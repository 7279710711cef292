"""The checks before any work: the model, the output, memory and disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from sun_sglang.checkpoint.completeness.require_complete import require_complete
from sun_sglang.checkpoint.completeness.stored import read_stored
from sun_sglang.checkpoint.config_file import architecture_of, require_no_adapter
from sun_sglang.checkpoint.json_file import read_json
from sun_sglang.checkpoint.kv.format import quantization_of
from sun_sglang.checkpoint.locate import find_checkpoint
from sun_sglang.errors import QuantizeError
from sun_sglang.quantize.grid import ARCHITECTURES, GROUP_SIZES, Plan, plan
from sun_sglang.quantize.job import Algorithm, Tokens
from sun_sglang.strict import listed

_CGROUP = Path("/sys/fs/cgroup")
# Python, torch and llmcompressor
_PROGRAM_BYTES = 1_500_000_000
_FLOAT = 4
_COMPARED_POSITIONS = 64


def find_source(model: str, group_size: int) -> tuple[Path, Plan]:
    """Return the directory of a model that can be quantized, and what becomes of its tensors.

    Args:
        model: a directory, or the id of a model in the Hugging Face cache.
        group_size: inputs that share one scale.

    Raises:
        QuantizeError: there is no such model, it is quantized, its architecture is not supported, or the group size
            does not fit.
        CheckpointError: a file or a tensor is missing.
    """
    if group_size not in GROUP_SIZES:
        raise QuantizeError(
            f"--group-size {group_size}: SGLang serves groups of {', '.join(map(str, GROUP_SIZES))}; give one of these"
        )
    found = find_checkpoint(model)
    if found is None:
        raise QuantizeError(f"{model}: is neither a directory nor in the Hugging Face cache; download it first")
    require_no_adapter(found)
    config = read_json(found / "config.json", "is this a model directory?")
    quantization = quantization_of(found, config)
    if quantization:
        method = quantization.get("quant_method", "some method")
        raise QuantizeError(f"{found}: is already quantized ({method}); give the model that it was made of")
    architecture = architecture_of(config, found)
    if architecture not in ARCHITECTURES:
        raise QuantizeError(f"{found}: {architecture} is not supported; supported are {listed(ARCHITECTURES)}")
    require_complete(found)
    try:
        return found, plan(read_stored(found), group_size)
    except QuantizeError as e:
        raise QuantizeError(f"{found}: {e}") from e


def require_place(output: Path, source: Path, size: int) -> None:
    """Raise unless a checkpoint of `size` bytes can be written to `output`.

    Args:
        output: the directory to make.
        source: directory of the model.
        size: bytes of the checkpoint's tensors.

    Raises:
        QuantizeError: it exists, its parent cannot be written, or the disk is too full.
    """
    try:
        if output.exists() or output.is_symlink():
            raise QuantizeError(f"--output: {output}: exists; remove it, or give another directory")
        if source.resolve() in output.resolve().parents:
            raise QuantizeError(f"--output: {output}: lies in the model's directory; give another one")
        output.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(output.parent).free
    except OSError as e:
        raise QuantizeError(f"--output: {output}: cannot be written ({e.strerror or e})") from e
    if not os.access(output.parent, os.W_OK | os.X_OK):
        raise QuantizeError(f"--output: {output.parent}: cannot be written (no permission)")
    needed = size + size // 20 + 50_000_000
    if free < needed:
        raise QuantizeError(
            f"--output: {output.parent}: {_gb(free)} of the disk are free, and the checkpoint needs {_gb(needed)}; "
            "free some, or give another directory"
        )


def needed_memory(
    source: Path, plan: Plan, algorithm: Algorithm, calibration: Sequence[Tokens], held_out: Sequence[Tokens]
) -> int:
    """Return an estimate of the bytes of memory that a quantization needs, an upper one.

    Counted are the weights with the packed ones beside them; the hidden states of all samples, for AWQ also the inputs
    of a layer's parts with their outputs before and after, for GPTQ the Hessians of a layer; and what the source
    computes of the held-out samples.

    Args:
        source: directory of the model.
        plan: its layers.
        algorithm: the algorithm.
        calibration: the samples to calibrate on.
        held_out: the samples to measure with.
    """
    text = _text(read_json(source / "config.json"))
    hidden, vocabulary = int(text["hidden_size"]), int(text["vocab_size"])
    layers = int(text["num_hidden_layers"])
    weights = plan.size_before + plan.size_after
    widest = max(matrix.inputs for matrix in plan.matrices)
    tokens = sum(map(len, calibration))
    if algorithm == "rtn":
        running = 0
    elif algorithm == "gptq":
        in_a_layer = plan.matrices[: -(-len(plan.matrices) // layers)]
        # the last Hessian has its inverse and its factor beside it
        running = 2 * tokens * hidden + sum(m.inputs**2 for m in in_a_layer) + 3 * widest**2
    else:
        running = tokens * (8 * hidden + 2 * widest)
    longest = max(map(len, (*calibration, *held_out)), default=0)
    one_pass = longest * (6 * widest + vocabulary)
    compared = sum(len(s) * hidden * (layers + 1) + min(len(s), _COMPARED_POSITIONS) * vocabulary for s in held_out)
    return _PROGRAM_BYTES + weights + _FLOAT * (running + one_pass + compared)


def require_memory(needed: int) -> None:
    """Raise unless so many bytes of memory are free.

    Raises:
        QuantizeError: fewer are.
    """
    free = free_memory()
    if free < needed:
        raise QuantizeError(
            f"{_gb(free)} of memory are free, and this quantization needs about {_gb(needed)}; free some, give fewer "
            "--samples or --max-tokens, or use a larger machine"
        )


def free_memory(cgroup: Path = _CGROUP) -> int:
    """Return the bytes of memory that this process can still take: of the machine, and of its container."""
    free = psutil.virtual_memory().available
    try:
        limit, used = ((cgroup / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return free
    return min(free, max(0, int(limit) - int(used))) if limit.isdigit() else free


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    nested = config.get("text_config")
    return nested if isinstance(nested, Mapping) else config


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
