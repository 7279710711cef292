"""Read the identity of a worker from its checkpoint and its SGLang flags.

`contracts/worker_card.py` defines the identity, and `contracts/kv_compatibility.py` compares two of them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from sun_sglang.checkpoint.config_defaults import with_class_defaults
from sun_sglang.checkpoint.json_file import read_json
from sun_sglang.checkpoint.kv_format import kv_format, quantization_of
from sun_sglang.checkpoint.kv_layout import attention_ranks, kv_heads, moves_between_ranks, rope
from sun_sglang.checkpoint.tensor_file import read_header
from sun_sglang.checkpoint.tokenizer_digest import served_template_digest, tokenizer_digest
from sun_sglang.checkpoint.tuning import decoder_revision
from sun_sglang.contracts.worker_card import Identity
from sun_sglang.errors import CheckpointError

_SAMPLE_ABOVE = 1 << 30
_SAMPLE_BYTES = 4096
# SGLang flags by which one checkpoint gives other KV for the same prompt
MODULE_FLAGS = (
    "quantization",
    "dtype",
    "load_format",
    "json_model_override_args",
    "modelopt_quant",
    "quantize_and_serve",
    "rl_quant_profile",
    "model_impl",
)


def module_flags(flags: Mapping[str, Any]) -> str:
    """Return those of a worker's SGLang flags that decide what KV its weights give, as canonical JSON."""
    given = {name: flags[name] for name in MODULE_FLAGS if flags.get(name)}
    return json.dumps(given, sort_keys=True, default=str)


def find_checkpoint(model: str, revision: str | None = None) -> Path | None:
    """The directory of a model on this machine: itself, or its snapshot in the Hugging Face cache; None if neither."""
    if Path(model).is_dir():
        return Path(model)
    snapshot = _snapshot(model, revision)
    complete = (snapshot / "config.json").exists() and any(snapshot.glob("*.safetensors"))
    return snapshot if complete else None


def _snapshot(repository: str, revision: str | None = None) -> Path:
    """Where the Hugging Face cache keeps a repository, if it does."""
    directory = _hub_cache(os.environ) / f"models--{repository.replace('/', '--')}"
    ref = directory / "refs" / (revision or "main")
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else revision
    return directory / "snapshots" / (commit or "main")


def _tokenizer_place(model: Path, engine: Mapping[str, Any]) -> Path:
    """Return the directory of a worker's tokenizer.

    SGLang resolves `tokenizer_path` to the model's own path, which may be a Hugging Face id.

    Args:
        model: directory of the checkpoint.
        engine: SGLang's flags.
    """
    given = engine.get("tokenizer_path")
    if not given or given == engine.get("model_path"):
        return model
    return Path(given) if Path(given).is_dir() else _snapshot(str(given))


def read_identity(model: Path, engine: Mapping[str, Any], *, sglang: str = "") -> Identity:
    """Return the identity of a checkpoint as a worker with these SGLang flags would have it.

    Args:
        model: directory of the checkpoint.
        engine: SGLang's flags.
        sglang: version of SGLang that runs the worker; empty where no worker runs.

    Raises:
        CheckpointError: the directory, its `config.json`, tokenizer or weights are missing or unreadable.
    """
    config = read_json(model / "config.json", "a Hugging Face checkpoint has one")
    try:
        text = with_class_defaults(config.get("text_config", config))
        heads = kv_heads(text)
        kv = kv_format(model, config, engine)
        weights = weights_revision(model)
        tokenizer = _tokenizer_place(model, engine)
        return Identity(
            architecture=config["architectures"][0],
            num_layers=text["num_hidden_layers"],
            num_kv_heads=heads.number,
            head_dim=heads.size,
            vocab_size=text["vocab_size"],
            rope=rope(text),
            kv_cache_dtype=kv.flag,
            kv_dtype=kv.dtype,
            kv_scales=kv.scales,
            page_size=int(engine.get("page_size") or 0),
            tp_size=attention_ranks(engine),
            any_tp=moves_between_ranks(text, engine, kv.flag),
            pp_size=int(engine.get("pp_size") or 1),
            tokenizer=tokenizer_digest(tokenizer),
            chat_template=served_template_digest(tokenizer, engine),
            sglang=sglang,
            weights=weights,
            decoder=decoder_revision(weights, engine, quantization_of(model, config)),
        )
    except CheckpointError:
        raise
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as e:
        raise CheckpointError(f"{model / 'config.json'}: no usable {e}; is this a decoder-only model?") from e


def weights_revision(model: Path) -> str:
    """A digest of the weights, 16 hex characters: equal revisions mean equal KV for equal prompts.

    Below 1 GiB every byte counts. Above, the safetensors headers and the first and last 4 KiB of every tensor do: a
    tuned tensor differs there, and 16 GB need not be read before a start.

    Raises:
        CheckpointError: there are no `*.safetensors` files, or one cannot be read.
    """
    files = sorted(model.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{model}: no *.safetensors; save the model with `save_pretrained`")
    try:
        return _weights_revision(tuple((f, f.stat().st_size, f.stat().st_mtime_ns) for f in files))
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as e:
        raise CheckpointError(f"{model}: its weights cannot be read ({e})") from e


@lru_cache(maxsize=256)
def _weights_revision(files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    sampled = sum(size for _, size, _ in files) > _SAMPLE_ABOVE
    for path, _, _ in files:
        for chunk in _tensor_samples(path) if sampled else _whole(path):
            digest.update(chunk)
    return digest.hexdigest()[:16]


def _whole(path: Path) -> Iterator[bytes]:
    with path.open("rb") as f:
        while chunk := f.read(1 << 20):
            yield chunk


def _tensor_samples(path: Path) -> Iterator[bytes]:
    with path.open("rb") as f:
        header = read_header(f)
        yield header
        tensors = {k: v for k, v in json.loads(header).items() if k != "__metadata__"}
        for name in sorted(tensors):
            start, end = tensors[name]["data_offsets"]
            for offset in (start, max(start, end - _SAMPLE_BYTES)):
                f.seek(8 + len(header) + offset)
                yield f.read(min(_SAMPLE_BYTES, end - offset))


def _hub_cache(environ: Mapping[str, str]) -> Path:
    """Where Hugging Face keeps downloads (huggingface_hub: `constants.py`)."""
    if environ.get("HF_HUB_CACHE"):
        return Path(environ["HF_HUB_CACHE"]).expanduser()
    cache = Path(environ.get("XDG_CACHE_HOME") or "~/.cache")
    home = Path(environ.get("HF_HOME") or cache / "huggingface")
    return home.expanduser() / "hub"
