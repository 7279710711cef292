"""The demo's choice of a topology, its questions, and which task is the untuned model."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from sun_sglang.bench import demo
from sun_sglang.bench.demo import ADAPTERS, TINY, Question, default_topology, read_questions, untuned_task
from sun_sglang.bench.smollm2.errors import ModelError
from sun_sglang.topology_file import load_topology

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("file", sorted((ROOT / "configs/demo").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_task_but_the_untuned_model_has_held_out_questions(file: Path) -> None:
    topology = load_topology(file)
    for task in topology.tasks.keys() - {untuned_task(topology)}:
        assert len(read_questions(file, task)) >= 2


def test_demo_of_adapters_has_its_tasks_on_two_pools_of_one_model() -> None:
    topology = load_topology(ROOT / ADAPTERS)
    assert len(topology.tasks) >= 8
    assert untuned_task(topology) == "base"
    assert len({pool.model for pool in topology.pools.values()}) == 1
    assert {(task.prefill, task.decode) for task in topology.tasks.values()} == {("prompts", "base")}
    for file in (ROOT / "configs/demo/adapters").glob("*/*"):
        assert file.stat().st_size <= 4_000_000


def test_demo_of_tiny_models_has_no_untuned_task() -> None:
    assert untuned_task(load_topology(ROOT / TINY)) is None


def test_model_that_cannot_be_made_leads_to_the_tiny_models(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ModelError("the wheel cannot be downloaded")

    console = Console(record=True, width=200)
    monkeypatch.setattr(demo, "make_model", fail)
    assert default_topology(console) == TINY
    assert "the wheel cannot be downloaded\nThe demo serves its tiny models" in console.export_text()
    monkeypatch.setattr(demo, "make_model", lambda *_: None)
    assert default_topology(console) == ADAPTERS


def test_call_is_right_in_any_accepted_form_and_other_answers_only_as_they_are() -> None:
    accepted = {"function": "f", "required": ["a"], "types": {"a": "integer"}, "arguments": {"a": [1, 2]}}
    call = Question("call", (), "f(a=1)", accepted)
    assert call.is_answered_by("f(a = 2)")
    assert not call.is_answered_by("f(a=3)")
    text = Question("intent", (), "f(a=1)")
    assert text.is_answered_by("f(a=1)")
    assert not text.is_answered_by("f(a = 1)")
