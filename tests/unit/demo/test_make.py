from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.contracts.module_file import read_module_file
from sun_sglang.demo import make, systems
from sun_sglang.demo.tune import TuneRecipe

DEMO = Path(__file__).parents[3] / "configs" / "demo"
RECIPES = {"math": TuneRecipe(examples=32, batch=4, learning_rates=(1e-3,))}
FEW = 3


@pytest.fixture
def earlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory with the demo's base and the evaluation of an earlier command."""
    monkeypatch.setattr(make, "HELD_OUT", FEW)
    for name in (systems.BASE, systems.QUANTIZED_BASE, "math"):
        shutil.copytree(DEMO / "models" / name, tmp_path / "models" / name)
    shutil.copy(DEMO / make.EVALUATION, tmp_path)
    return tmp_path


def read(directory: Path) -> Any:
    return json.loads((directory / make.EVALUATION).read_text())


def test_make_of_one_scheme_tunes_it_from_the_base_and_leaves_the_rest_as_it_was(earlier: Path) -> None:
    before = read(earlier)
    make.make_scheme(earlier, "decode_only", 0, RECIPES, lambda _: None)
    after = read(earlier)
    base = weights_revision(earlier / "models" / systems.BASE)
    module = earlier / "models" / "math-decode-only"
    record = read_module_file(module)
    assert (record.scheme, record.first_token, record.base) == ("decode_only", "decode", base)
    assert record.decoder == weights_revision(module) != base
    cell = after["exact_match"]["math"].pop("prefillshare")
    assert cell["total"] == FEW
    before["exact_match"]["math"].pop("prefillshare", None)
    assert after["exact_match"] == before["exact_match"]
    assert set(after["tuning"].pop("math-decode-only")["validation_loss"]) == {"0.001"}
    before["tuning"].pop("math-decode-only", None)
    assert after["tuning"] == before["tuning"]
    assert after["base_recipe"] == before["base_recipe"]


def test_make_of_qsun_tunes_the_sun_module_for_the_quantized_base(earlier: Path) -> None:
    before = read(earlier)
    make.make_scheme(earlier, "qsun", 0, RECIPES, lambda _: None)
    after, models = read(earlier), earlier / "models"
    record = read_module_file(models / "math-w4a16")
    assert record.scheme == "prefill_only"
    assert record.base == weights_revision(models / "math")
    assert record.decoder == weights_revision(models / systems.QUANTIZED_BASE)
    for name in ("qsun", "sun_quantized"):
        assert after["exact_match"]["math"].pop(name)["total"] == FEW
        before["exact_match"]["math"].pop(name, None)
    assert after["exact_match"] == before["exact_match"]


def test_make_of_one_scheme_without_an_earlier_make_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=make.EVALUATION):
        make.make_scheme(tmp_path, "decode_only", 0, RECIPES, lambda _: None)


def test_systems_name_the_checkpoints_of_their_schemes() -> None:
    found = systems.pairs("math")
    assert found["sun"] == ("math", "base", "prefill")
    assert found["prefillshare"] == ("base", "math-decode-only", "decode")
    assert found["full"] == ("math-full", "math-full", "prefill")
    assert found["naive"] == ("math-full", "base", "prefill")
    assert found["qsun"] == ("math-w4a16", "base-w4a16", "prefill")
    assert systems.systems_with("math", "qsun") == ["sun_quantized", "qsun"]
    assert systems.systems_with("math", "prefill_only") == ["sun", "sun_quantized"]
