"""The four tasks: their data, recipes and topologies fit each other; modules that answer alike are an error."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sun_sglang.bench.smollm2 import tasks
from sun_sglang.bench.smollm2.comparison import require_different
from sun_sglang.bench.smollm2.data import TASKS, data_file, write_data
from sun_sglang.bench.smollm2.errors import ModelError
from sun_sglang.bench.smollm2.model import BASE
from sun_sglang.bench.smollm2.tasks import RECIPES, main
from sun_sglang.topology_file import load_topology
from sun_sglang.train.recipe import load_recipe

ROOT = Path(__file__).parents[4]


@pytest.mark.parametrize("task", TASKS)
def test_recipe_reads_the_generated_data_and_tunes_a_lora_of_the_base(task: str) -> None:
    recipe = load_recipe(ROOT / RECIPES / f"{task}.yaml")
    built = ROOT / BASE.parent
    assert recipe.base == str(built / "base")
    assert recipe.output == str(built / task)
    assert recipe.data.file == str(data_file(built / "data", task, "train"))
    assert recipe.data.validation_file == str(data_file(built / "data", task, "validation"))
    assert recipe.lora is not None
    assert recipe.scheme == "prefill_only"


@pytest.mark.parametrize("task", TASKS)
def test_recipe_of_prefillshare_tunes_the_decoder_on_the_same_data(task: str) -> None:
    own, recipe = (load_recipe(ROOT / RECIPES / folder / f"{task}.yaml") for folder in ("prefillshare", "."))
    assert (own.scheme, own.first_token) == ("decode_only", "decode")
    assert own.output == str(ROOT / BASE.parent / "prefillshare" / task)
    assert (own.base, own.data, own.lora) == (recipe.base, recipe.data, recipe.lora)


@pytest.mark.parametrize("folder", [".", "bfloat16"])
def test_prefillshare_serves_the_four_tasks_with_as_many_workers_as_isolated(folder: str) -> None:
    shared, isolated = (
        load_topology(ROOT / "configs/smollm2" / folder / name) for name in ("prefillshare.yaml", "isolated.yaml")
    )
    assert list(shared.tasks) == list(isolated.tasks) == list(TASKS)
    assert shared.engine == isolated.engine
    assert {task.prefill for task in shared.tasks.values()} == {"base"}
    for name, task in shared.tasks.items():
        assert Path(shared.pools[task.decode].model) == ROOT / BASE.parent / "prefillshare" / name
    for role in ("prefill", "decode"):
        counts = [sum(p.replicas for p in t.pools.values() if p.role == role) for t in (shared, isolated)]
        assert counts == [4, 4]


def test_data_is_the_same_each_time_and_no_validation_question_is_trained(tmp_path: Path) -> None:
    write_data(tmp_path)
    first = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    write_data(tmp_path)
    assert first == {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert len(first) == 2 * len(TASKS)
    for task in TASKS:
        train, held_out = (set(first[f"{task}.{split}.jsonl"].splitlines()) for split in ("train", "validation"))
        assert (len(train), len(held_out), train & held_out) == (240, 24, set())


@pytest.mark.parametrize(("file", "decoders"), [("sun.yaml", 1), ("isolated.yaml", 4)])
def test_topologies_serve_the_four_tasks_in_float32_from_their_modules(file: str, decoders: int) -> None:
    topology = load_topology(ROOT / "configs/smollm2" / file)
    assert list(topology.tasks) == list(TASKS)
    assert topology.engine == {"dtype": "float32"}
    assert len({task.decode for task in topology.tasks.values()}) == decoders
    for name, task in topology.tasks.items():
        assert Path(topology.pools[task.prefill].model) == ROOT / BASE.parent / name


def test_modules_of_which_two_answer_alike_are_named() -> None:
    answers = {"base": [[1], [2]], "math": [[1], [3]], "tool": [[4], [5]]}
    assert require_different(answers) == {"base, math": 1, "base, tool": 2, "math, tool": 2}
    with pytest.raises(ModelError, match="math, order: both answer every prompt alike"):
        require_different({**answers, "order": [[1], [3]]})


def test_tasks_without_the_base_name_the_command_that_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tasks, "BASE", tmp_path / "base")
    assert main(["--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"tasks: {tmp_path}/base: no model; make it first: `make model`\n"


def test_task_whose_training_fails_is_named_with_its_last_line_and_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").touch()
    script = "import sys; print('error: the disk is full'); sys.exit(1)"
    monkeypatch.setattr(tasks, "BASE", tmp_path / "base")
    monkeypatch.setattr(tasks, "sun_command", lambda *_: [sys.executable, "-c", script])
    assert main(["--out", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"tasks: configs/smollm2/train/math.yaml: `sun train` failed (error: the disk is full); see {tmp_path}/math.log"
    )
