"""Fixtures and hooks of all tests."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.distribution import pytest_xdist_make_scheduler
from tests.support.garbage import pytest_collection_finish, pytest_sessionfinish, pytest_sessionstart
from tests.support.invariants import pytest_configure, pytest_runtest_makereport
from tests.support.threads import compute_in_one_thread

# pytest finds hooks by their names here
__all__ = [
    "pytest_collection_finish",
    "pytest_configure",
    "pytest_runtest_makereport",
    "pytest_sessionfinish",
    "pytest_sessionstart",
    "pytest_xdist_make_scheduler",
]

pytest.register_assert_rewrite("tests.support.training")
compute_in_one_thread()

# `make test-clients` runs these in an environment of their own
collect_ignore = ["clients"]

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_size": 64,
    "vocab_size": 512,
    "rope_theta": 10000.0,
    "dtype": "bfloat16",
}


@pytest.fixture
def write_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Write a checkpoint directory that can be read but not served.

    Arguments: a name, keys of `config.json` to change (None removes one), `weights` as bytes, `tokenizer` and
    `template` as text, and `record` for `sun.json`.
    """

    def write(
        name: str,
        config: Mapping[str, Any] | None = None,
        *,
        weights: bytes = b"weights",
        tokenizer: str = "words",
        template: str | None = "{{ messages }}",
        record: Mapping[str, Any] | None = None,
    ) -> Path:
        directory = tmp_path / name
        directory.mkdir(parents=True)
        content = {k: v for k, v in {**LLAMA, **(config or {})}.items() if v is not None}
        (directory / "config.json").write_text(json.dumps(content))
        (directory / "tokenizer.json").write_text(json.dumps({"model": tokenizer}))
        if template is not None:
            (directory / "chat_template.jinja").write_text(template)
        (directory / "model.safetensors").write_bytes(safetensors({"embed": weights}))
        if record is not None:
            (directory / "sun.json").write_text(json.dumps(record))
        return directory

    return write


def safetensors(tensors: Mapping[str, bytes]) -> bytes:
    """Return a safetensors file of byte tensors."""
    header: dict[str, Any] = {}
    offset = 0
    for name, data in tensors.items():
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(tensors.values())
