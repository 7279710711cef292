"""Make the benchmark's models: a random decoder and a random prefill module, each in bfloat16 and in 4 bits.

    python -m sun_sglang.bench.four_bit.model --out build/four_bit

The times of a worker do not depend on the values of its weights. The decoder is large enough that reading its weights
takes most of a decode step on a CPU. It has the proportions of Llama-3.1-8B at half the width, and a quarter of the
layers; the head is 7 % of the weights that a step reads, as there. A model that exists is kept.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

OUT = Path("build/four_bit")
# 503 million parameters, 436 of them in the layers
SIZES: Mapping[str, int] = {
    "hidden_size": 2048,
    "intermediate_size": 7168,
    "num_hidden_layers": 8,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 16384,
    "max_position_embeddings": 4096,
}
GROUP_SIZE = 128
# each module with the seed of its weights
MODULES: Mapping[str, int] = {"base": 0, "prefill": 1}
_SPREAD = 0.02


def packed_name(module: str) -> str:
    """Return the directory name of a module's 4-bit copy."""
    return f"{module}-w4a16"


def make_models(out: Path, sizes: Mapping[str, int], log: Callable[[str], None]) -> None:
    """Write every model that `out` lacks.

    Args:
        out: directory of the models.
        sizes: keys of Llama's configuration.
        log: receives lines of progress.

    Raises:
        CheckpointError: a group of weights does not divide a layer.
    """
    import sun_sglang.train  # noqa: F401  (it repairs the import of torchvision, which transformers imports)
    from sun_sglang.packed_weights.checkpoint import write_rounded

    out.mkdir(parents=True, exist_ok=True)
    for module, seed in MODULES.items():
        _make(out / module, partial(_write_random, sizes, seed), log)
        _make(out / packed_name(module), partial(write_rounded, out / module, num_bits=4, group_size=GROUP_SIZE), log)


def _make(model: Path, write: Callable[[Path], None], log: Callable[[str], None]) -> None:
    """Write a model beside its place and move it there: one that was cut off is not taken for a whole one."""
    if model.exists():
        return
    log(f"makes {model}")
    with tempfile.TemporaryDirectory(prefix=f".{model.name}-", dir=model.parent) as folder:
        write(Path(folder) / "model")
        shutil.move(Path(folder) / "model", model)


def _write_random(sizes: Mapping[str, int], seed: int, path: Path) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, LlamaConfig

    from sun_sglang.bench.gpu_check.models.checkpoints import byte_tokenizer

    fixed: dict[str, Any] = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0, "tie_word_embeddings": False}
    config = LlamaConfig(**sizes, **fixed, dtype="bfloat16", architectures=["LlamaForCausalLM"])
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in AutoModelForCausalLM.from_config(config).state_dict().items()}
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        # a norm's weight is a vector
        name: torch.ones(shape, dtype=torch.bfloat16)
        if len(shape) == 1
        else torch.empty(shape, dtype=torch.bfloat16).normal_(std=_SPREAD, generator=generator)
        for name, shape in shapes.items()
    }
    path.mkdir()
    config.save_pretrained(path)
    byte_tokenizer().save_pretrained(path)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


def main() -> None:
    """Run the command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m sun_sglang.bench.four_bit.model", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--out", type=Path, default=OUT, help="directory of the models")
    parser.add_argument("--sizes", type=json.loads, default={}, help='sizes that differ, as {"num_hidden_layers": 2}')
    arguments = parser.parse_args()
    make_models(arguments.out, {**SIZES, **arguments.sizes}, _say)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    main()
