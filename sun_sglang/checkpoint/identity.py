"""Read the identity of a worker from its checkpoint and its SGLang flags.

`contracts/worker_card.py` defines the identity, and `contracts/kv_compatibility.py` compares two of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sun_sglang.checkpoint.config_defaults import with_class_defaults
from sun_sglang.checkpoint.config_file import architecture_of, layers_of, require_no_adapter
from sun_sglang.checkpoint.config_overrides import OVERRIDES, overrides_of, with_overrides
from sun_sglang.checkpoint.json_file import read_json
from sun_sglang.checkpoint.kv.format import kv_format, quantization_of
from sun_sglang.checkpoint.kv.layout import attention_ranks, kv_heads, moves_between_ranks, rope
from sun_sglang.checkpoint.locate import hub_snapshot
from sun_sglang.checkpoint.tokenizer_digest import served_template_digest, tokenizer_digest
from sun_sglang.checkpoint.tuning import decoder_revision
from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.contracts.worker_card import Identity
from sun_sglang.errors import CheckpointError
from sun_sglang.strict import first_invalid

# SGLang flags that change the KV that a checkpoint makes of a prompt
MODULE_FLAGS = (
    "quantization",
    "dtype",
    "load_format",
    OVERRIDES,
    "modelopt_quant",
    "quantize_and_serve",
    "rl_quant_profile",
    "model_impl",
)


def module_flags(flags: Mapping[str, Any]) -> str:
    """Return the SGLang flags of a worker that change the KV that its weights make, as canonical JSON."""
    given = {name: flags[name] for name in MODULE_FLAGS if flags.get(name)}
    return json.dumps(given, sort_keys=True, default=str)


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
    return Path(given) if Path(given).is_dir() else hub_snapshot(str(given))


def read_identity(model: Path, engine: Mapping[str, Any], *, sglang: str = "") -> Identity:
    """Return the identity of a worker that serves a checkpoint with these SGLang flags.

    Args:
        model: directory of the checkpoint.
        engine: SGLang's flags.
        sglang: version of SGLang that runs the worker; empty where no worker runs.

    Raises:
        CheckpointError: the directory, its `config.json`, tokenizer or weights are missing or unreadable; or
            `json_model_override_args` is no JSON object.
    """
    require_no_adapter(model)
    stored = read_json(model / "config.json", "a Hugging Face checkpoint has one")
    config = with_overrides(stored, overrides_of(engine))
    architecture = architecture_of(config, model)
    try:
        text = with_class_defaults(config.get("text_config", config))
        heads = kv_heads(text)
        kv = kv_format(model, config, engine)
        weights = weights_revision(model)
        tokenizer = _tokenizer_place(model, engine)
        return Identity(
            architecture=architecture,
            num_layers=layers_of(text, model),
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
            decoder=decoder_revision(weights, engine, quantization_of(model, stored), quantization_of(model, config)),
        )
    except CheckpointError:
        raise
    except ValidationError as e:
        field = first_invalid(e, Identity, show_value=True)
        raise CheckpointError(f"{model / 'config.json'}: no usable {field.describe()}") from e
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as e:
        raise CheckpointError(f"{model / 'config.json'}: no usable {e}; is this a decoder-only model?") from e
