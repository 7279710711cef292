"""The options of `sun task` that set the weights of a task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sun_sglang.cli.task import _changes, _Fields
from sun_sglang.errors import UserError

NOTHING: dict[str, Any] = dict.fromkeys(_Fields._fields) | {"no_adapter": False, "no_model": False}


def fields(**given: Any) -> dict[str, Any]:
    return _changes(_Fields(**NOTHING | given))


def test_directories_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert fields(model=Path("m")) == {"model": str(tmp_path / "m")}
    assert fields(adapter=Path("a"), prefill="turns") == {"prefill": "turns", "adapter": str(tmp_path / "a")}


def test_task_without_weights_of_its_own() -> None:
    assert fields(no_model=True) == {"model": None}
    assert fields(no_adapter=True) == {"adapter": None}
    assert fields() == {}


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"adapter": Path("a"), "model": Path("m")}, "--adapter or --model, not both"),
        ({"adapter": Path("a"), "no_adapter": True}, "--adapter or --no-adapter"),
        ({"model": Path("m"), "no_model": True}, "--model or --no-model"),
    ],
)
def test_options_that_contradict_each_other_are_refused(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        fields(**given)
