"""Make what llmcompressor wrote a checkpoint that workers serve, check it, and give it its name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from sun_sglang.checkpoint.completeness.require_complete import require_complete
from sun_sglang.checkpoint.completeness.stored import StoredTensor, read_stored
from sun_sglang.checkpoint.identity import read_identity
from sun_sglang.contracts.worker_card import Identity
from sun_sglang.errors import CheckpointError, QuantizeFailed
from sun_sglang.files.replace_file import sync_directory, sync_file
from sun_sglang.quantize.grid import Plan
from sun_sglang.quantize.origin import ORIGIN, Origin

# as `train/modules.py` copies them beside tuned weights
_COPIED = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.*",
    "generation_config.json",
    "LICENSE*",
)
_DIRECTORIES = ("additional_chat_templates",)
# of an identity: what serving compares, and a quantization must not change
_KEPT = (
    "architecture",
    "num_layers",
    "num_kv_heads",
    "head_dim",
    "vocab_size",
    "rope",
    "kv_dtype",
    "tokenizer",
    "chat_template",
)


def complete(made: Path, source: Path, plan: Plan, origin: Origin) -> None:
    """Add the files beside the weights, check the checkpoint, and write it to the disk.

    The tokenizer comes last: without one no worker accepts the directory.

    Args:
        made: the directory that holds weights and `config.json`.
        source: directory of the model that was quantized.
        plan: what should have become of its tensors.
        origin: what is recorded about the quantization.

    Raises:
        QuantizeFailed: the checkpoint is not what was planned.
    """
    (made / ORIGIN).write_text(json.dumps(origin.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")
    _copy_text_files(source, made)
    _require_planned(made, source, plan)
    for file in made.rglob("*"):
        if file.is_file():
            sync_file(file)
    sync_directory(made)


def publish(made: Path, output: Path) -> None:
    """Give a checkpoint its name.

    Raises:
        QuantizeFailed: the name is taken by now.
    """
    if output.exists():
        raise QuantizeFailed(f"{output}: was made by another program meanwhile; remove it and start again")
    made.rename(output)
    sync_directory(output.parent)


def _copy_text_files(source: Path, made: Path) -> None:
    """Copy byte for byte: text must become the same tokens as on the source."""
    for pattern in _COPIED:
        for stale in made.glob(pattern):
            stale.unlink()
        for file in source.glob(pattern):
            if file.is_file():
                shutil.copyfile(file, made / file.name)
    for name in _DIRECTORIES:
        if (source / name).is_dir():
            shutil.copytree(source / name, made / name, dirs_exist_ok=True)


def _require_planned(made: Path, source: Path, plan: Plan) -> None:
    try:
        before, after = read_stored(source), read_stored(made)
        require_complete(made)
        identities = read_identity(source, {}), read_identity(made, {})
    except CheckpointError as e:
        raise QuantizeFailed(f"llmcompressor wrote a checkpoint that cannot be served ({e})") from e
    problem = _other_tensor(before, after, plan) or _other_identity(*identities)
    if problem:
        raise QuantizeFailed(f"llmcompressor wrote another checkpoint than planned: {problem}")


def _other_tensor(before: dict[str, StoredTensor], after: dict[str, StoredTensor], plan: Plan) -> str:
    """Return how the tensors differ from the planned ones; empty where they do not."""
    wanted = {name: tensor.shape for name, tensor in before.items()}
    for matrix in plan.matrices:
        del wanted[f"{matrix.name}.weight"]
        wanted |= matrix.packed_shapes(plan.group_size)
    for name, shape in wanted.items():
        # a tied head that the source stores is one tensor with the embeddings
        if name not in after and not name.startswith("lm_head."):
            return f"`{name}` is missing"
        if name in after and after[name].shape != shape:
            return f"`{name}` has the shape {list(after[name].shape)}, and not {list(shape)}"
    extra = next((name for name in after if name not in wanted), None)
    return "" if extra is None else f"`{extra}` was not expected"


def _other_identity(before: Identity, after: Identity) -> str:
    for name in _KEPT:
        if getattr(before, name) != getattr(after, name):
            return f"its {name} is {getattr(after, name)}, and the source's is {getattr(before, name)}"
    return ""
