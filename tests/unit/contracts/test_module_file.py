from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sun_sglang.contracts.module_file import (
    MODULE_FILE,
    ModuleFile,
    ServedModule,
    read_module_file,
    read_served_module,
    write_module_file,
)
from sun_sglang.contracts.scheme import SCHEMES, Scheme, Side
from sun_sglang.errors import CheckpointError

CONTENT = ModuleFile(
    scheme="prefill_only",
    base="a" * 16,
    decoder="b" * 16,
    first_token="prefill",
    command="python -m sun_sglang.demo.make",
    seed=0,
    learning_rate=1e-3,
)


def test_a_record_comes_back(tmp_path: Path) -> None:
    write_module_file(CONTENT, tmp_path)
    assert read_module_file(tmp_path) == CONTENT
    assert "recipe" not in json.loads((tmp_path / MODULE_FILE).read_text())


def test_a_missing_or_bad_record_is_named(tmp_path: Path) -> None:
    assert read_module_file(tmp_path) is None
    (tmp_path / MODULE_FILE).write_text('{"scheme": "full"}')
    with pytest.raises(CheckpointError, match=r"sun\.json: base: is required"):
        read_module_file(tmp_path)


def test_module_file_of_an_unknown_scheme_is_refused_by_name(tmp_path: Path) -> None:
    write_module_file(CONTENT, tmp_path)
    text = (tmp_path / MODULE_FILE).read_text().replace("prefill_only", "half")
    (tmp_path / MODULE_FILE).write_text(text)
    with pytest.raises(CheckpointError, match=r"sun\.json: scheme: Input should be 'prefill_only', .* or 'full'"):
        read_module_file(tmp_path)


@pytest.mark.parametrize(
    "other",
    [{"scheme": "half"}, {"learning_rate": "1e-5 to 0"}, {"command": ["train", "a.yaml"]}, {"recipe": "a.yaml"}],
)
def test_read_served_module_of_another_trainer_ignores_the_fields_of_training(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    needed = {"base": "a", "decoder": "b", "first_token": "decode"}
    (tmp_path / MODULE_FILE).write_text(json.dumps({**needed, **other}))
    assert read_served_module(tmp_path) == ServedModule.model_validate(needed)
    with pytest.raises(CheckpointError, match=rf"sun\.json: {next(iter(other))}: Input should be"):
        read_module_file(tmp_path)


@pytest.mark.parametrize("field", [name for name, field in ServedModule.model_fields.items() if field.is_required()])
def test_read_served_module_without_a_field_of_serving_is_refused_by_name(tmp_path: Path, field: str) -> None:
    content = CONTENT.model_dump(exclude={field}, exclude_none=True)
    (tmp_path / MODULE_FILE).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=rf"sun\.json: {field}: is required"):
        read_served_module(tmp_path)


def test_module_file_of_another_trainer_without_a_scheme_reads_what_serving_needs(tmp_path: Path) -> None:
    (tmp_path / MODULE_FILE).write_text('{"base": "a", "decoder": "b", "first_token": "decode", "more": 1}')
    found = read_module_file(tmp_path)
    assert found is not None
    assert (found.decoder, found.first_token, found.tuning_scheme) == ("b", "decode", None)


def test_module_file_with_a_scheme_describes_it_with_its_first_token(tmp_path: Path) -> None:
    write_module_file(CONTENT.model_copy(update={"scheme": "decode_only", "first_token": "decode"}), tmp_path)
    found = read_module_file(tmp_path)
    assert found is not None
    assert found.tuning_scheme == SCHEMES["decode_only"].with_first_token("decode")


def test_scheme_that_trains_two_modules_is_refused() -> None:
    with pytest.raises(AssertionError, match="one module"):
        Scheme(frozenset({"prefill", "decode"}))


@pytest.mark.parametrize(
    ("scheme", "decoder", "first_token", "found"),
    [
        (None, "own", "decode", "base"),
        (None, "own", "prefill", ""),
        (None, "other", "decode", ""),
        # also where the file names the decoder of which these weights were made
        ("decode_only", "other", "prefill", "base"),
        ("prefill_only", "own", "decode", ""),
        ("full", "own", "decode", "weights"),
    ],
)
def test_weights_that_decode_their_own_task_name_the_prefill_weights_they_were_tuned_on(
    scheme: str | None, decoder: str, first_token: Side, found: str
) -> None:
    module = ServedModule(base="base", decoder=decoder, first_token=first_token, scheme=scheme)
    assert module.tuned_on("weights", "own") == found
