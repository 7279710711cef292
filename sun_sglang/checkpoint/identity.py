"""What must be known of a worker before it may hand KV to another one, and how it is read from a checkpoint.

SGLang checks none of architecture, tokenizer or chat template between the two sides, and a difference in page size or
KV dtype ends the decode server (`disaggregation/common/conn.py`), so all of it is compared (`agreement.py`) before
anything starts, from the checkpoints, and again at registration, from the workers themselves.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from sun_sglang.checkpoint.config_defaults import completed
from sun_sglang.checkpoint.json_file import read_json
from sun_sglang.checkpoint.kv_format import kv_format, quantization_of
from sun_sglang.checkpoint.kv_layout import attention_ranks, kv_heads, moves_between_ranks, rope
from sun_sglang.checkpoint.tensor_file import read_header
from sun_sglang.checkpoint.tokenizer_digest import served_template_digest, tokenizer_digest
from sun_sglang.checkpoint.tuning import decoder_revision
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
# A card comes from another process, over the network. Every value has a bound, so that no card can exhaust the router's
# memory or end one of its loops.
Name = Annotated[str, StringConstraints(max_length=256)]
Detail = Annotated[str, StringConstraints(max_length=1 << 16)]
Size = Annotated[int, Field(ge=1, le=1 << 20)]
Tokens = Annotated[int, Field(ge=1, le=1 << 40)]
Port = Annotated[int, Field(ge=1, le=65535)]


class Identity(BaseModel):
    """Everything that must be equal on both sides of a KV transfer, plus the weights, which need not be.

    Attributes:
        architecture: `architectures[0]` of `config.json`.
        num_layers: hidden layers.
        num_kv_heads: KV heads a layer.
        head_dim: size of one head.
        vocab_size: rows of the embedding.
        rope: RoPE parameters as canonical JSON.
        kv_cache_dtype: SGLang's flag of this name as a worker resolves it, which SGLang compares.
        kv_dtype: dtype of the KV cache, which is what the flag means for this model.
        kv_scales: digest of the scales of 8-bit KV; empty where KV is not scaled, `1.0` where every scale is one.
        page_size: tokens a KV page; 0 where SGLang decides it at start.
        tp_size: ranks among which one token's KV heads are split: the tensor-parallel ranks of one attention group.
        any_tp: the KV may go to a worker with another `tp_size`.
        pp_size: pipeline ranks.
        tokenizer: digest of the tokenizer.
        chat_template: digest of the chat template; empty if there is none.
        sglang: version of SGLang: the messages of a KV transfer differ between versions.
        weights: revision of the weights; what makes a cache namespace, never compared.
        decoder: what a module is tuned for that is decoded by these weights: their revision, and how flags quantize
            them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: Name
    num_layers: Size
    num_kv_heads: Size
    head_dim: Size
    vocab_size: int = Field(ge=1, le=(1 << 31) - 1)
    rope: Detail
    kv_cache_dtype: Name = "auto"
    kv_dtype: Name
    kv_scales: Name = ""
    page_size: int = Field(ge=0, le=1 << 20)
    tp_size: Size
    any_tp: bool = False
    pp_size: Size = 1
    tokenizer: Name
    chat_template: Name
    sglang: Name
    weights: Name
    decoder: Name = ""


class PatchReport(BaseModel):
    """One hook on SGLang as a process found it. `detail` says what is wrong when `state` is not `applied`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    target: Name
    state: Literal["applied", "missing", "moved", "inactive"]
    detail: Detail = ""


class WorkerCard(BaseModel):
    """What a worker says of itself at `GET /sun/worker`; nothing is sent to a worker whose card has not been read.

    Attributes:
        role: `prefill` or `decode`.
        incarnation: a new random value each start.
        bootstrap_port: where a prefill worker meets decode workers; None on a decode worker.
        identity: what must agree with the other side.
        patches: the state of every hook, as the scheduler processes reported it.
        max_input_tokens: longest prompt that this worker takes.
        context_length: longest prompt and answer together.
        kv_tokens: size of the KV cache in tokens.
        leaving: it was told to end, and ends once its requests have.
        module_flags: the flags by which its weights give other KV than another worker's equal weights, as JSON.
        keeps_answers: its cache keeps the KV of answers, which its own module made; a decode worker that does not say
            is taken to.
        token_bytes: most bytes of text that one token may cover; None where there is no such number.
        dp_size: its data-parallel ranks, each with a scheduler and a cache of its own.
        tuned_for: revision of the decoder that its weights were tuned for; empty where they were not tuned.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    role: Literal["prefill", "decode"]
    incarnation: Name
    bootstrap_port: Port | None
    identity: Identity
    patches: tuple[PatchReport, ...] = Field(max_length=64)
    max_input_tokens: Tokens
    context_length: Tokens
    kv_tokens: Tokens
    leaving: bool = False
    module_flags: Detail = ""
    keeps_answers: bool = True
    token_bytes: Tokens | None = None
    dp_size: Size = 1
    tuned_for: Name = ""

    @property
    def module(self) -> str:
        """Revision of what makes this worker's KV: equal modules make equal KV for equal tokens."""
        flags = hashlib.sha256(self.module_flags.encode()).hexdigest()[:8] if self.module_flags else ""
        return f"{self.identity.weights}.{flags}" if flags else self.identity.weights


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
        text = completed(config.get("text_config", config))
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
