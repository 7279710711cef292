"""The rows of SmolLM2's table of quantised decoders, the tunings that they need, and the recipes of those."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sun_sglang.bench.smollm2.quantized.recipes import BASE, EXAMPLES, FULL, SUN, Setting, Tuning, recipe_of, with_paths
from sun_sglang.bench.smollm2.quantized.rows import Module, Pair, cells_of, pair_of, tunings_of
from sun_sglang.bench.training.quantized_cells import Cell
from sun_sglang.train.recipe import load_recipe

GRID = "rtn-4-64"
FULL_TUNING, SUN_TUNING = Tuning("math", 0, FULL), Tuning("math", 0, SUN)


def pair(method: str) -> Pair:
    (cell,) = (cell for cell in cells_of([GRID]) if cell.method == method)
    return pair_of(cell, "math", 0)


def test_a_row_has_a_cell_for_each_grid_only_where_it_is_quantised() -> None:
    cells = cells_of(["a", "b"])
    assert [cell.grid for cell in cells if cell.method == "qsun"] == ["a", "b"]
    assert [cell.grid for cell in cells if cell.method == "sun"] == ["none"]
    assert {cell.method for cell in cells} - {cell.method for cell in cells_of(["a"], full=False)} == {
        "full",
        "full_quantized",
    }


def test_full_fine_tuning_is_one_module_that_is_quantised_on_both_sides() -> None:
    assert pair("full") == (Module(FULL_TUNING), Module(FULL_TUNING))
    assert pair("full_quantized") == (Module(FULL_TUNING, GRID), Module(FULL_TUNING, GRID))


def test_rows_of_sun_keep_the_prefill_module_in_16_bits_and_share_the_base_as_decoder() -> None:
    assert pair("sun") == (Module(SUN_TUNING), Module())
    assert pair("sun_quantized") == (Module(SUN_TUNING), Module(grid=GRID))


def test_qsun_and_its_control_differ_only_in_the_decoder_of_the_further_tuning() -> None:
    qsun, control = pair("qsun"), pair("control")
    assert qsun.decode == control.decode == Module(grid=GRID)
    assert (qsun.prefill.tuning, control.prefill.tuning) == (
        SUN_TUNING._replace(retuned_for=GRID),
        SUN_TUNING._replace(retuned_for=BASE),
    )
    assert pair("sun_retuned") == (control.prefill, Module())


def test_further_tunings_come_in_a_stage_after_the_modules_that_they_start_from() -> None:
    # the first tuning is of no row here
    stages = tunings_of([pair_of(Cell("qsun", GRID), "math", 0)])
    assert stages == [[SUN_TUNING], [SUN_TUNING._replace(retuned_for=GRID)]]


@pytest.mark.parametrize("tuning", [FULL_TUNING, SUN_TUNING, SUN_TUNING._replace(retuned_for=GRID)])
def test_a_recipe_is_one_of_sun_train(tuning: Tuning, tmp_path: Path) -> None:
    decoder = tmp_path / "decoder" if tuning.retuned_for else None
    files = {name: tmp_path / name for name in ("base", "output", "train", "validation")}
    recipe = with_paths(recipe_of(tuning, Setting(EXAMPLES)), decoder=decoder, **files)
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    loaded = load_recipe(file)
    assert (loaded.scheme, loaded.epochs) == (tuning.scheme, 0.5 if tuning.retuned_for else 1.0)
    assert loaded.decoder == (str(decoder) if decoder else None)
    assert loaded.base == str(tmp_path / "base")
