"""Trainings that diverge, that are cut short while they save, and whose data or place changed."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sun_sglang.errors import CheckpointError, RecipeError
from sun_sglang.train.estimate import estimate
from sun_sglang.train.modules import build_modules
from sun_sglang.train.objective.two_module_loss import TwoModule
from sun_sglang.train.recipe import Recipe
from sun_sglang.train.sweep import prepare, run_sweep
from sun_sglang.train.trainer.trained_state import trained_state
from sun_sglang.train.trainer.whole_checkpoints import MARK, find_checkpoints, mark_whole

from transformers import Trainer  # isort: skip # after sun_sglang.train, which makes it importable

Load = Callable[..., Recipe]


def quiet(_line: str) -> None:
    """Print nothing."""


def break_loss(monkeypatch: pytest.MonkeyPatch, rate: float, at: int) -> list[int]:
    """Make one loss of the training with a rate NaN; return the number of its micro batches, counted."""
    count, step = [0], Trainer.compute_loss

    def compute(self: Any, model: Any, *arguments: Any, **options: Any) -> Any:
        loss = step(self, model, *arguments, **options)
        if self.args.learning_rate != rate:
            return loss
        count[0] += 1
        return loss * torch.nan if count[0] == at else loss

    monkeypatch.setattr(Trainer, "compute_loss", compute)
    return count


def test_rate_that_diverges_is_not_kept_and_its_training_ends(
    recipe: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = break_loss(monkeypatch, 1e-2, 3)
    lines: list[str] = []
    record = run_sweep(prepare(recipe(save_steps=1, learning_rates=[1e-2, 5e-3])), "c", lines.append)
    assert record.learning_rate == 5e-3
    assert lines[0] == "learning rate 0.01: diverged, not kept"
    assert batches == [4], "it ends with the step in which it diverged, of 12 micro batches"
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values())
    losses = json.loads((tmp_path / "out" / "training" / "search.json").read_text(), parse_constant=pytest.fail)
    assert losses["losses"]["0.01"] is None


def test_training_that_diverges_with_every_rate_writes_no_model(
    recipe: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_loss(monkeypatch, 1e-2, 1)
    diverging = recipe(save_steps=1, learning_rates=[1e-2])
    for resume in (False, True):
        with pytest.raises(RecipeError, match="diverged with every rate that was tried"):
            run_sweep(prepare(diverging), "c", quiet, resume=resume)
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_weight_that_is_not_finite_after_training_counts_as_diverged(
    recipe: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sun_sglang.train.sweep as sweep

    fit = sweep.fit

    def spoil(module: TwoModule, *arguments: Any, **options: Any) -> float:
        loss = fit(module, *arguments, **options)
        with torch.no_grad():
            next(p for p in module.parameters() if p.requires_grad).view(-1)[0] = torch.inf
        return loss

    monkeypatch.setattr(sweep, "fit", spoil)
    with pytest.raises(RecipeError, match="diverged with every rate"):
        run_sweep(prepare(recipe(learning_rates=[1e-2])), "c", quiet)
    assert not list((tmp_path / "out").rglob("*.safetensors"))


@pytest.mark.parametrize("key", ["base", "decoder"])
def test_model_with_one_value_that_is_not_finite_is_refused(recipe: Load, base: Path, tmp_path: Path, key: str) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(base, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = torch.nan
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(RecipeError, match=rf"{key}: .*layers\.1\.mlp\.up_proj\.weight` has a value that is NaN"):
        run_sweep(prepare(recipe(**{key: str(broken)})), "c", quiet)


def test_tuned_weight_beyond_the_bases_dtype_is_not_written(recipe: Load, base: Path, tmp_path: Path) -> None:
    from sun_sglang.train.modules import save_tuned

    module = build_modules(recipe(), base, base)
    with torch.no_grad():
        module.prefill.model.norm.weight[0] = 1e6
    with pytest.raises(RecipeError, match=r"`model\.norm\.weight` does not fit into the base's torch\.float16"):
        save_tuned(module, recipe(), base, tmp_path / "out", merge=False)
    assert not (tmp_path / "out" / "model.safetensors").exists()


def cut(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Interrupt the first training after this many micro batches."""
    step, steps = Trainer.training_step, [0]

    def stop(*arguments: Any, **options: Any) -> Any:
        steps[0] += 1
        if steps[0] == after:
            raise KeyboardInterrupt
        return step(*arguments, **options)

    monkeypatch.setattr(Trainer, "training_step", stop)


def test_resume_takes_the_newest_checkpoint_that_was_written_whole(
    recipe: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_sweep(prepare(recipe(output="./whole", save_steps=1, learning_rates=[1e-2])), "c", quiet)
    one = recipe(output="./cut", save_steps=1, learning_rates=[1e-2])
    cut(monkeypatch, 7)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(prepare(one), "c", quiet)
    work = tmp_path / "cut" / "training" / "0.01"
    (kept,) = work.glob("checkpoint-*")
    # a save that a kill cut short: later than the kept one, and without its last bytes
    later = work / "checkpoint-4"
    shutil.copytree(kept, later)
    with (later / "optimizer.pt").open("r+b") as stream:
        stream.truncate(100)
    lines: list[str] = []
    run_sweep(prepare(one), "c", lines.append, resume=True)
    assert lines[0] == "learning rate 0.01: checkpoint-4 was cut short or changed, and is not used"
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("harm", ["missing", "short", "zeros", "unmarked", "half a mark", "no mark content"])
def test_checkpoint_that_is_not_whole_is_passed_over(tmp_path: Path, harm: str) -> None:
    for step in (2, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        for name in ("optimizer.pt", "trained.safetensors"):
            (tmp_path / f"checkpoint-{step}" / name).write_bytes(b"x" * 50)
        mark_whole(tmp_path / f"checkpoint-{step}")
    old, new = tmp_path / "checkpoint-2", tmp_path / "checkpoint-10"
    assert find_checkpoints(tmp_path) == (new, [])
    {
        "missing": lambda: (new / "optimizer.pt").unlink(),
        "short": lambda: (new / "optimizer.pt").write_bytes(b"x" * 49),
        "zeros": lambda: (new / "optimizer.pt").write_bytes(b"x" * 25 + b"\0" * 25),
        "unmarked": lambda: (new / MARK).unlink(),
        "half a mark": lambda: (new / MARK).write_text('{"optimizer.pt'),
        "no mark content": lambda: (new / MARK).write_text("[]"),
    }[harm]()
    assert find_checkpoints(tmp_path) == (old, [new])


@pytest.mark.parametrize("start", [0, 7 << 20, (20 << 20) - 10])
def test_checkpoint_of_which_a_large_file_lost_a_range_is_passed_over(tmp_path: Path, start: int) -> None:
    checkpoint = tmp_path / "checkpoint-2"
    checkpoint.mkdir()
    (checkpoint / "optimizer.pt").write_bytes(b"x" * (20 << 20))
    mark_whole(checkpoint)
    assert find_checkpoints(tmp_path).newest == checkpoint
    with (checkpoint / "optimizer.pt").open("r+b") as stream:
        stream.seek(start)
        stream.write(bytes(min(1 << 20, (20 << 20) - start)))
    assert find_checkpoints(tmp_path) == (None, [checkpoint])


def test_checkpoint_saved_again_over_a_mark_that_was_cut_short_is_whole(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint-2"
    checkpoint.mkdir()
    (checkpoint / "optimizer.pt").write_bytes(b"x" * 50)
    (checkpoint / f"{MARK}.new").write_text('{"optimizer')
    mark_whole(checkpoint)
    assert find_checkpoints(tmp_path) == (checkpoint, [])


def test_resume_after_the_data_changed_is_refused(recipe: Load, base: Path, tmp_path: Path) -> None:
    data = tmp_path / "train.jsonl"
    shutil.copy(base / "train.jsonl", data)
    settings = {"file": str(data), "messages": "messages", "response": "answer", "validation": 0.2}
    one = recipe(learning_rates=[1e-2], data=settings)
    run_sweep(prepare(one), "c", quiet)
    rows = data.read_text().splitlines(keepends=True)
    data.write_text("".join(rows[: len(rows) // 2]))
    with pytest.raises(
        RecipeError, match=r"was begun with another data, whose content differs \(.*\); choose another output"
    ):
        run_sweep(prepare(one), "c", quiet, resume=True)
    data.write_text("".join(rows))
    run_sweep(prepare(one), "c", quiet, resume=True)


def test_resume_of_a_run_that_moved_with_its_files_goes_on(recipe: Load, base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "a")
    data = {"messages": "messages", "response": "answer"}

    def at(place: str) -> Recipe:
        files = {"file": f"./{place}/train.jsonl", "validation_file": f"./{place}/validation.jsonl"}
        return recipe(base=f"./{place}", output=f"./{place}/out", learning_rates=[1e-2], data={**data, **files})

    run_sweep(prepare(at("a")), "c", quiet)
    (tmp_path / "a").rename(tmp_path / "b")
    lines: list[str] = []
    run_sweep(prepare(at("b")), "c", lines.append, resume=True)
    assert "done before" in lines[0]


def test_full_disk_while_saving_is_one_error_and_the_run_resumes(
    recipe: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sun_sglang.train.search_record as search_record

    one, save = recipe(learning_rates=[5e-3, 1e-2]), search_record.save_file
    calls = [0]

    def full(state: Any, file: Path) -> None:
        calls[0] += 1
        save(state, file)
        if calls[0] == 2:
            file.write_bytes(b"half")
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(search_record, "save_file", full)
    with pytest.raises(RecipeError, match=r"output: .*No space left on device.*continued with --resume"):
        run_sweep(prepare(one), "c", quiet)
    lines: list[str] = []
    run_sweep(prepare(one), "c", lines.append, resume=True)
    assert "done before" in lines[0]
    assert "done before" not in lines[1]


def test_full_disk_while_a_checkpoint_is_saved_is_one_error_and_the_run_resumes(
    recipe: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, save, calls = recipe(save_steps=1, learning_rates=[1e-2]), Trainer._save_optimizer_and_scheduler, [0]

    def full(self: Any, out: str) -> None:
        calls[0] += 1
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        if calls[0] == 2:
            # a real refusal by the kernel, in the middle of a file of torch.save
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            save(self, out)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setattr(Trainer, "_save_optimizer_and_scheduler", full)
    with pytest.raises(RecipeError, match=r"output: .*a checkpoint could not be written.*continued with --resume"):
        run_sweep(prepare(one), "c", quiet)
    assert capsys.readouterr().err.endswith("\n"), "the error follows on a line of its own"
    lines: list[str] = []
    run_sweep(prepare(one), "c", lines.append, resume=True)
    assert lines[0] == "learning rate 0.01: checkpoint-2 was cut short or changed, and is not used"


@pytest.mark.parametrize("output", ["base", "link"])
def test_output_that_is_the_base_is_refused(recipe: Load, base: Path, tmp_path: Path, output: str) -> None:
    shutil.copytree(base, tmp_path / "base")
    (tmp_path / "link").symlink_to(tmp_path / "base")
    with pytest.raises(RecipeError, match=r"output: .* is the model of `base`; give another directory"):
        prepare(recipe(base="./base", output=f"./{output}"))


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "pytorch_model.bin"])
def test_output_with_a_foreign_model_is_refused_and_kept(recipe: Load, tmp_path: Path, name: str, resume: bool) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(RecipeError, match=rf"output: .*out holds `{name}` of a model, and no training/search\.json"):
        run_sweep(prepare(recipe()), "c", quiet, resume=resume)
    assert [(path.name, path.read_text()) for path in (tmp_path / "out").iterdir()] == [(name, "mine")]


def test_output_below_a_file_is_one_error_before_training(recipe: Load, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RecipeError, match=r"output: .*Not a directory"):
        run_sweep(prepare(recipe(output="./file/out")), "c", quiet)


def test_max_steps_ends_training_before_the_epochs_and_never_after(
    recipe: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 48 examples in batches of 8: six steps of two micro batches an epoch
    for most, steps in ((2, 2), (100, 6)):
        counted, step = [0], Trainer.training_step

        def count(*arguments: Any, counted: list[int] = counted, step: Any = step, **options: Any) -> Any:
            counted[0] += 1
            return step(*arguments, **options)

        monkeypatch.setattr(Trainer, "training_step", count)
        prepared = prepare(recipe(output=f"./out-{most}", max_steps=most, learning_rates=[1e-2]))
        assert prepared.steps == steps
        run_sweep(prepared, "c", quiet)
        assert counted == [2 * steps]


def test_lora_target_that_the_model_lacks_is_refused_by_the_estimate(recipe: Load) -> None:
    with pytest.raises(RecipeError, match=r"lora\.targets: the model has no linear layer `qproj`; it has .*`q_proj`"):
        estimate(prepare(recipe(lora={"targets": ["q_proj", "qproj"]})))
    assert estimate(prepare(recipe(lora={"targets": ["mlp.up_proj"]}))).trained > 0


def test_lora_of_one_module_trains_its_adapter_alone(recipe: Load, base: Path) -> None:
    state = trained_state(build_modules(recipe(scheme="full", lora={"rank": 4}), base, base))
    assert state
    assert all("lora_" in name for name in state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "auto"}, "dtype `auto` is not one of .*`bfloat16`"),
        ({"dtype": "float8_e4m3fn"}, "dtype `float8_e4m3fn` is not one of"),
        (
            {"quantization_config": {"quant_method": "fp8"}},
            "base: .* is quantised, and tuning starts from whole weights",
        ),
    ],
)
def test_base_whose_weights_cannot_be_trained_is_one_error(
    recipe: Load, base: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    odd = tmp_path / "odd"
    shutil.copytree(base, odd)
    config = json.loads((odd / "config.json").read_text())
    (odd / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(CheckpointError, match=message):
        prepare(recipe(base=str(odd)))


class Killed(BaseException):
    """A kill at one point of a run."""


def kill_at(monkeypatch: pytest.MonkeyPatch, point: str, rate: float) -> None:
    """Kill the run while the record of this rate's result is written.

    Args:
        monkeypatch: of the test.
        point: `during weights`, `after weights`, `during losses`, or `after losses`.
        rate: the rate.
    """
    import sun_sglang.train.search_record as search_record

    replace, add, recorded = search_record.replace_file, search_record.SearchRecord.add, [0.0]

    def note(self: Any, rate: float, *rest: Any) -> float:
        recorded[0] = rate
        return add(self, rate, *rest)

    def replace_or_die(file: Path, write: Callable[[Path], object]) -> None:
        what = "losses" if file.suffix == ".json" else "weights"
        if recorded[0] != rate or not point.endswith(what):
            replace(file, write)
            return
        if point.startswith("during"):
            file.with_name(f"{file.name}.new").write_bytes(b"half")
        if point.startswith("after"):
            replace(file, write)
        raise Killed

    monkeypatch.setattr(search_record.SearchRecord, "add", note)
    monkeypatch.setattr(search_record, "replace_file", replace_or_die)


def test_kill_while_a_better_rate_is_recorded_leaves_losses_and_weights_that_fit(
    recipe: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the kill the second rate diverges: the first one's weights are kept, unless the second was recorded."""
    rates, common = [5e-3, 1e-2], {"max_steps": 2}
    run_sweep(prepare(recipe(output="./first", learning_rates=rates[:1], **common)), "c", quiet)
    run_sweep(prepare(recipe(output="./second", learning_rates=rates[1:], **common)), "c", quiet)
    for point in ("during weights", "after weights", "during losses", "after losses"):
        one = prepare(recipe(output=f"./{point}", learning_rates=rates, **common))
        with monkeypatch.context() as patched:
            kill_at(patched, point, 1e-2)
            with pytest.raises(Killed):
                run_sweep(one, "c", quiet)
        with monkeypatch.context() as patched:
            break_loss(patched, 1e-2, 1)
            record = run_sweep(one, "c", quiet, resume=True)
        expected, rate = ("second", 1e-2) if point == "after losses" else ("first", 5e-3)
        assert record.learning_rate == rate, point
        kept, right = (load_file(tmp_path / name / "model.safetensors") for name in (point, expected))
        assert all(torch.equal(kept[name], right[name]) for name in right), point
        files = [path.name for path in (tmp_path / point / "training").glob("best-*")]
        assert files == [f"best-{rate}.safetensors"], point


def test_resume_without_the_weights_of_the_best_rate_is_refused(recipe: Load, tmp_path: Path) -> None:
    one = recipe(learning_rates=[1e-2], max_steps=1)
    run_sweep(prepare(one), "c", quiet)
    (tmp_path / "out" / "training" / "best-0.01.safetensors").unlink()
    with pytest.raises(RecipeError, match=r"best-0\.01\.safetensors: not found, .*remove the directory"):
        run_sweep(prepare(one), "c", quiet, resume=True)


def test_rates_that_print_alike_keep_checkpoints_of_their_own(recipe: Load, tmp_path: Path) -> None:
    run_sweep(prepare(recipe(learning_rates=[1e-2, 1.0000001e-2], max_steps=1)), "c", quiet)
    work = tmp_path / "out" / "training"
    assert (work / "0.01").is_dir()
    assert (work / "0.010000001").is_dir()


@pytest.mark.parametrize("merge", [False, True])
def test_adapter_that_is_not_finite_or_does_not_fit_is_not_written(
    recipe: Load, base: Path, tmp_path: Path, merge: bool
) -> None:
    from sun_sglang.train.modules import save_tuned

    lora = recipe(lora={"rank": 4})
    module = build_modules(lora, base, base)
    weights = {name: p for name, p in module.tuned.named_parameters() if "lora_B" in name}
    with torch.no_grad():
        # finite in the adapter, and beyond float16 once it is merged
        next(iter(weights.values())).fill_(1e6 if merge else torch.nan)
    with pytest.raises(RecipeError, match="does not fit into" if merge else "of the adapter is not finite"):
        save_tuned(module, lora, base, tmp_path / "out", merge=merge)
    assert not (tmp_path / "out").exists()


def test_reason_why_tensors_are_not_compared_is_kept(recipe: Load, base: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    shutil.copytree(base, odd)
    config = json.loads((odd / "config.json").read_text())
    (odd / "config.json").write_text(json.dumps(config | {"architectures": ["SunForCausalLM"]}))
    (note,) = prepare(recipe(base=str(odd))).notes
    assert note.startswith(f"base: {odd}: tensors are checked only while they load (transformers ")
    assert "does not know SunForCausalLM" in note
    assert prepare(recipe()).notes == ()
