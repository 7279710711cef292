"""Load the two modules of a recipe, add LoRA adapters, and save the tuned module as a plain checkpoint."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoTokenizer

from sun_sglang.checkpoint.completeness.require_complete import require_complete
from sun_sglang.checkpoint.json_file import read_json
from sun_sglang.checkpoint.kv.format import quantization_of
from sun_sglang.checkpoint.locate import find_checkpoint
from sun_sglang.errors import CheckpointError, RecipeError
from sun_sglang.strict import listed
from sun_sglang.train.checkpoint import load_model
from sun_sglang.train.objective.activation_checkpointing import recompute_layers, require_full_attention
from sun_sglang.train.objective.packed_attention import PACKED
from sun_sglang.train.objective.two_module_loss import TwoModule
from sun_sglang.train.recipe import Recipe
from sun_sglang.train.trainer.divergence import not_finite

_NOT_WEIGHTS = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt")
_COPIED = (*_NOT_WEIGHTS, "chat_template.*", "generation_config.json")
TEMPLATE = "chat_template.jinja"
ADAPTER = "adapter"
_DTYPES = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class FoundModel(NamedTuple):
    """A model on this machine.

    Attributes:
        directory: its directory.
        unchecked: why names and shapes of its tensors were not compared with its architecture; empty where they were.
    """

    directory: Path
    unchecked: str


def find_model(model: str, key: str) -> FoundModel:
    """Find a model. Download a Hub id that is not on this machine.

    Args:
        model: a directory or a Hub id.
        key: the recipe's key of the model, for error messages.

    Raises:
        RecipeError: the model is neither a directory nor on the Hub.
        CheckpointError: the directory lacks a file or a tensor that its architecture needs.
    """
    found = find_checkpoint(model)
    if found is not None:
        return FoundModel(found, _require_complete(found, key))
    if Path(model).is_absolute():
        raise RecipeError(f"{key}: {model}: no such directory")
    from huggingface_hub import snapshot_download

    try:
        loaded = Path(snapshot_download(model, ignore_patterns=["original/*", "*.pth", "*.bin", "*.gguf"]))
    except Exception as e:  # a dozen types, all about the name, a licence or the network
        raise RecipeError(f"{key}: `{model}` is neither a directory nor on the Hub ({type(e).__name__}: {e})") from e
    return FoundModel(loaded, _require_complete(loaded, key))


def _require_complete(model: Path, key: str) -> str:
    try:
        return require_complete(model)
    except CheckpointError as e:
        raise CheckpointError(f"{key}: {e}") from e


def load_recipe_tokenizer(recipe: Recipe, base: Path) -> Any:
    """Return the base's tokenizer with the recipe's chat template.

    Raises:
        RecipeError: the tokenizer has no chat template or no end-of-text token.
    """
    tokenizer = AutoTokenizer.from_pretrained(base)
    if isinstance(tokenizer.chat_template, dict):
        # serving takes the first of several
        tokenizer.chat_template = next(iter(tokenizer.chat_template.values()))
    if recipe.chat_template is not None:
        try:
            tokenizer.chat_template = Path(recipe.chat_template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise RecipeError(f"chat_template: {recipe.chat_template}: cannot be read ({e})") from e
    if not tokenizer.chat_template:
        raise RecipeError(f"chat_template: {recipe.base} has no chat template; name a Jinja file")
    if tokenizer.eos_token_id is None:
        raise RecipeError(
            f"base: the tokenizer of {recipe.base} has no end-of-text token, and every answer ends with one"
        )
    return tokenizer


def build_modules(recipe: Recipe, base: Path, decoder: Path) -> TwoModule:
    """Return both modules before tuning: the tuned one in float32 (LoRA: only the adapters), the frozen one as served.

    Args:
        recipe: the recipe.
        base: directory of the base model.
        decoder: directory of the frozen decode module; the weights of a quantised one stay packed.

    Raises:
        RecipeError: the architecture or the LoRA targets do not fit the recipe.
    """
    served = _frozen_dtype(base) if recipe.bf16 else torch.float32
    tuned = _load(base, "base", torch.float32 if recipe.lora is None else served)
    scheme = recipe.tuning_scheme
    frozen = None if scheme.one_module else _load(decoder, "decoder", served)
    if recipe.lora is not None:
        if frozen is not None and decoder == base:
            _share(tuned, frozen)
        tuned = _adapted(recipe, tuned)
    attention = PACKED if recipe.packing_tokens is not None else _padded_attention(recipe)
    if attention == PACKED:
        require_full_attention(tuned.config, "packing_tokens")
    for model in (tuned, frozen):
        if model is not None and attention is not None:
            model.set_attn_implementation(attention)
    if recipe.gradient_checkpointing:
        for model in (tuned, frozen):
            if model is not None:
                recompute_layers(model)
    if frozen is None:
        module = TwoModule(tuned, tuned, scheme)
    else:
        module = TwoModule(*((tuned, frozen) if scheme.tuned_side == "prefill" else (frozen, tuned)), scheme)
    if recipe.lora is not None:
        # TwoModule sets a whole side to train; LoRA trains only its adapters
        for name, p in module.tuned.named_parameters():
            p.requires_grad_("lora_" in name)
    return module


def save_tuned(module: TwoModule, recipe: Recipe, base: Path, out: Path, *, merge: bool) -> None:
    """Write the tuned module: a plain checkpoint in the base's dtype, or `adapter/` where a LoRA adapter is not merged.

    Args:
        module: the two modules after tuning.
        recipe: the recipe.
        base: directory of the base model; its tokenizer files are copied.
        out: the output directory.
        merge: merge a LoRA adapter into the weights.

    Raises:
        RecipeError: a weight is not finite, or is not in the base's dtype. Nothing was written.
    """
    model: Any = module.tuned
    if recipe.lora is not None:
        adapter = {name: value for name, value in model.state_dict().items() if "lora_" in name}
        _require_finite(adapter, "output: `{}` of the adapter is not finite; nothing was written")
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
            # before the merge, which removes the adapter
            model.save_pretrained(Path(folder) / ADAPTER)
            if merge:
                model = _in_dtype(model.merge_and_unload(), base)
            shutil.copytree(Path(folder) / ADAPTER, out / ADAPTER, dirs_exist_ok=True)
        if not merge:
            return
    else:
        model = _in_dtype(model, base)
    model.save_pretrained(out)
    for pattern in _COPIED:
        for file in base.glob(pattern):
            # byte for byte: text must become the same tokens as on the decoder
            shutil.copyfile(file, out / file.name)
    if recipe.chat_template is not None:
        shutil.copyfile(recipe.chat_template, out / TEMPLATE)


def _in_dtype(model: Any, base: Path) -> Any:
    """Return a model in its base's dtype, in which every weight is finite."""
    dtype = dtype_of(base)
    model = model.to(dtype)
    weights = dict(model.named_parameters())
    _require_finite(weights, f"output: `{{}}` does not fit into the base's {dtype}; the model was not written")
    return model


def _require_finite(tensors: Mapping[str, torch.Tensor], message: str) -> None:
    broken = not_finite(tensors)
    if broken is not None:
        raise RecipeError(message.format(broken))


def _padded_attention(recipe: Recipe) -> str | None:
    """Return the attention of padded batches; None for the default of transformers.

    torch's fused attention in bfloat16 on a CPU is slow in the backward pass: of short rows it took a quarter of a step
    (torch 2.13), and separate matrix products a tenth of that.
    """
    return "eager" if recipe.bf16 and not torch.cuda.is_available() else None


def _frozen_dtype(base: Path) -> torch.dtype:
    """Return the dtype of frozen weights in a bfloat16 forward: the base's; bfloat16 for one with float32 weights.

    Autocast keeps no bfloat16 copy of a frozen weight: it would convert all of them again in each forward pass.
    """
    dtype = dtype_of(base)
    return torch.bfloat16 if dtype == torch.float32 else dtype


def dtype_of(model: Path) -> torch.dtype:
    """Return the dtype in the `config.json` of a model to start from; float32 where it has none.

    Raises:
        CheckpointError: `config.json` cannot be read, the model is quantised, or the dtype is none of a weight.
    """
    config = read_json(model / "config.json")
    if quantization_of(model, config):
        raise CheckpointError(
            f"base: {model}: is quantised, and tuning starts from whole weights; name the SUN prefill module or the "
            "model that it was made of, and the quantised model as `decoder`"
        )
    name = str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")
    dtype = _DTYPES.get(name)
    if dtype is None:
        raise CheckpointError(
            f"{model / 'config.json'}: dtype `{name}` is not one of {listed(_DTYPES)}; write that of its weights"
        )
    return dtype


def _load(model: Path, key: str, dtype: torch.dtype) -> Any:
    """Load a model whose weights are all finite."""
    loaded = load_model(model, dtype)
    broken = not_finite(dict(loaded.named_parameters()))
    if broken is not None:
        raise RecipeError(f"{key}: {model}: `{broken}` has a value that is NaN or infinite; give a whole model")
    return loaded


def _adapted(recipe: Recipe, model: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    lora = recipe.lora
    assert lora is not None
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets, task_type="CAUSAL_LM"
    )
    try:
        with torch.random.fork_rng():
            # every process, and every run of the recipe, starts from the same adapter
            torch.manual_seed(recipe.seed)
            return get_peft_model(model, config)
    except ValueError as e:
        raise RecipeError(f"lora.targets: {e}") from e


def _share(tuned: torch.nn.Module, frozen: torch.nn.Module) -> None:
    """Share one copy in memory between two models with the same weights that are not trained."""
    for mine, other in zip(tuned.parameters(), frozen.parameters(), strict=True):
        mine.data = other.data
