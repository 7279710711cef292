from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sun_sglang.errors import QuantizeError
from sun_sglang.quantize import environment
from sun_sglang.quantize.environment import find_environment


def python(tmp_path: Path, output: str) -> Path:
    file = tmp_path / "python"
    file.write_text(f"#!/bin/sh\necho '{output}'\n")
    file.chmod(0o755)
    return file


def test_absent_environment_names_make_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUN_QUANTIZE_PYTHON", raising=False)
    monkeypatch.setattr(environment, "PLACE", Path("no/such/python"))
    with pytest.raises(QuantizeError, match="llmcompressor is not installed here; run `make quantize-env`"):
        find_environment(None)


def test_variable_names_python_and_option_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SUN_QUANTIZE_PYTHON", "no/such/python")
    with pytest.raises(QuantizeError, match="SUN_QUANTIZE_PYTHON: no/such/python: no such file"):
        find_environment(None)
    given = python(tmp_path, '{"llmcompressor": "0.13.0"}')
    assert find_environment(given).python == given


def test_python_without_llmcompressor_or_with_another_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QuantizeError, match="lacks llmcompressor; run `make quantize-env`"):
        find_environment(Path(sys.executable))
    with pytest.raises(QuantizeError, match=r"has llmcompressor 0\.14\.1, and 0\.13\.x is needed"):
        find_environment(python(tmp_path, '{"llmcompressor": "0.14.1"}'))
    with pytest.raises(QuantizeError, match="does not run as Python"):
        find_environment(python(tmp_path, "no JSON"))
