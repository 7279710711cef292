"""A module takes the place of a worker's model only with its configuration and its tensors."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sun_sglang.checkpoint.module.fit import flag_against_turns, require_module_fits
from sun_sglang.errors import CheckpointError
from tests.conftest import safetensors

Write = Callable[..., Path]


WIDTHS = {"F8_E4M3": 1, "I8": 1, "F8_E5M2": 1, "C64": 8, "U16": 2}


def typed_tensors(stored: dict[str, tuple[str, int]]) -> bytes:
    """Return a safetensors file of tensors with three values, from their types and bytes a value."""
    header: dict[str, Any] = {}
    offset = 0
    for name, (dtype, width) in stored.items():
        header[name] = {"dtype": dtype, "shape": [3], "data_offsets": [offset, offset + 3 * width]}
        offset += 3 * width
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(offset)


def edit(model: Path, **changes: Any) -> None:
    file = model / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in {**config, **changes}.items() if value is not None}))


def test_module_of_the_same_base_fits(write_checkpoint: Write) -> None:
    module, own = write_checkpoint("a", weights=b"another"), write_checkpoint("b")
    edit(module, transformers_version="9", eos_token_id=3, use_cache=False)
    require_module_fits(module, own, {})


@pytest.mark.parametrize(
    ("changes", "names"),
    [({"rope_theta": 5.0}, "rope_theta"), ({"rms_norm_eps": 0.5}, "rms_norm_eps"), ({"hidden_act": "relu"}, "hidden")],
)
def test_module_with_another_configuration_is_refused(
    write_checkpoint: Write, changes: dict[str, Any], names: str
) -> None:
    module, own = write_checkpoint("a", weights=b"another"), write_checkpoint("b")
    edit(module, **changes)
    with pytest.raises(CheckpointError, match=names):
        require_module_fits(module, own, {})


def test_quantised_module_is_refused(write_checkpoint: Write) -> None:
    module, own = write_checkpoint("a", weights=b"another"), write_checkpoint("b")
    edit(module, quantization_config={"quant_method": "fp8"})
    with pytest.raises(CheckpointError, match="only full-precision modules take turns"):
        require_module_fits(module, own, {})


@pytest.mark.parametrize(
    ("tensors", "problem"),
    [
        ({"embed": b"1234567", "more": b"1"}, "has the tensor `more`"),
        ({"other": b"1234567"}, "lacks the tensor `embed`"),
        ({"embed": b"12345678"}, r"`embed` is \[8\], and .* has \[7\]"),
    ],
)
def test_module_with_other_tensors_is_refused(write_checkpoint: Write, tensors: dict[str, bytes], problem: str) -> None:
    module, own = write_checkpoint("a"), write_checkpoint("b")
    (module / "model.safetensors").write_bytes(safetensors(tensors))
    with pytest.raises(CheckpointError, match=problem):
        require_module_fits(module, own, {})


def test_tied_output_layer_may_be_stored_or_not(write_checkpoint: Write) -> None:
    module, own = (write_checkpoint(name, {"tie_word_embeddings": True}) for name in "ab")
    (module / "model.safetensors").write_bytes(safetensors({"embed": b"1234567", "lm_head.weight": b"1234567"}))
    require_module_fits(module, own, {})


@pytest.mark.parametrize("dtype", ["F8_E4M3", "I8", "F8_E5M2", "C64", "U16"])
@pytest.mark.parametrize("name", ["embed", "lm_head.weight"])
def test_module_whose_values_cannot_be_loaded_is_refused(write_checkpoint: Write, dtype: str, name: str) -> None:
    module, own = (write_checkpoint(name, {"tie_word_embeddings": True}) for name in "ab")
    stored = {"embed": ("BF16", 2), "lm_head.weight": ("F32", 4)}
    (own / "model.safetensors").write_bytes(typed_tensors(stored))
    (module / "model.safetensors").write_bytes(typed_tensors({**stored, "embed": ("F32", 4)}))
    require_module_fits(module, own, {})
    (module / "model.safetensors").write_bytes(typed_tensors({**stored, name: (dtype, WIDTHS[dtype])}))
    with pytest.raises(CheckpointError, match=f"`{name}` has values of type {dtype}"):
        require_module_fits(module, own, {})


def test_module_with_another_tokenizer_or_template_is_refused(write_checkpoint: Write) -> None:
    own = write_checkpoint("own")
    with pytest.raises(CheckpointError, match="holds another tokenizer"):
        require_module_fits(write_checkpoint("a", tokenizer="others"), own, {})
    other = write_checkpoint("b", template="{{ others }}")
    with pytest.raises(CheckpointError, match="holds another chat template"):
        require_module_fits(other, own, {})
    (other / "tokenizer.json").unlink()
    require_module_fits(other, own, {})


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ({}, None),
        ({"dp_size": 1, "quantization": None, "load_format": "auto", "model_impl": "auto"}, None),
        ({"tp_size": 4}, None),
        ({"dp_size": 2}, "dp_size"),
        ({"pp_size": 2}, "pp_size"),
        ({"tokenizer_worker_num": 2}, "tokenizer_worker_num"),
        ({"elastic_ep_backend": "mooncake"}, "elastic_ep_backend"),
        ({"quantization": "fp8"}, "quantization"),
        ({"speculative_algorithm": "EAGLE"}, "speculative_algorithm"),
        ({"load_format": "dummy"}, "load_format"),
        ({"weight_cache_mode": "daemon"}, "weight_cache_mode"),
    ],
)
def test_flags_with_which_modules_cannot_take_turns(flags: dict[str, Any], found: str | None) -> None:
    assert flag_against_turns(flags) == found
