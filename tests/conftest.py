"""Fixtures of all tests, and their distribution over processes."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.support.invariants import pytest_configure, pytest_runtest_makereport

# pytest finds hooks by their names here; these make a test fail by the name of its invariant
__all__ = ["pytest_configure", "pytest_runtest_makereport"]

pytest.register_assert_rewrite("tests.support.training")

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


# Files of tests/engine whose tests share the demo's deployment, and files whose tests start their own servers, or none.
# All other files there share one deployment.
_DEMO = frozenset(("test_demo.py", "test_eval.py"))
_APART = frozenset(
    (
        "test_decode_cache.py",
        "test_fields.py",
        "test_launcher.py",
        "test_names.py",
        "test_prompt_only_cache.py",
        "test_training.py",
    )
)


class SharedFixtures(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no type information
    """Run the tests that share a fixture in one process: those of a shared deployment, and those of each other file.

    Tests of faults on emulated workers share nothing: each runs in the next free process.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if file.startswith("tests/system/faults/"):
            return nodeid
        name = file.removeprefix("tests/engine/")
        if name == file or name in _APART:
            return file
        return "demo" if name in _DEMO else "deployment"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> SharedFixtures:
    """Return the scheduler of `pytest -n 2`. It keeps the order of the files: the shared deployment starts first."""
    config.option.loadscopereorder = False
    return SharedFixtures(config, log)


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
