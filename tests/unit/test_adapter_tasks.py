"""The adapters of a topology file become tasks with absolute paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from sun_sglang.errors import TopologyError
from sun_sglang.topology import Topology
from sun_sglang.topology_file import parse_topology
from tests.support.adapters import write_adapter

POOLS = """
pools:
  base: {role: decode, model: base-model}
  shared: {role: prefill, model: base-model}
"""


def parse(text: str, base: Path) -> Topology:
    return parse_topology(POOLS + text, base=base)


def refusal(text: str, base: Path) -> TopologyError:
    with pytest.raises(TopologyError) as caught:
        parse(text, base)
    return caught.value


def test_adapter_of_a_task_is_relative_to_the_file(tmp_path: Path) -> None:
    found = parse("tasks: {math: {prefill: shared, decode: base, adapter: adapters/math}}", tmp_path)
    assert found.tasks["math"].adapter == str(tmp_path / "adapters" / "math")
    missing = "tasks: {math: {prefill: shared, decode: base, adapter: $SUN_NO_SUCH/math}}"
    assert refusal(missing, tmp_path).where == "tasks.math.adapter"


def test_directory_of_adapters_is_a_task_for_each(tmp_path: Path) -> None:
    for name in ("sql", "chat"):
        write_adapter(tmp_path / "adapters" / name)
    (tmp_path / "adapters" / "notes").mkdir()
    text = "adapters: [{directory: adapters, prefill: shared, decode: base, prefix: team/}]"
    found = parse(text, tmp_path)
    assert list(found.tasks) == ["team/chat", "team/sql"]
    assert found.tasks["team/sql"].adapter == str(tmp_path / "adapters" / "sql")
    assert found.tasks_of("shared") == ["team/chat", "team/sql"]
    with_task = parse(f"tasks: {{plain: {{prefill: shared, decode: base}}}}\n{text}", tmp_path)
    assert list(with_task.tasks) == ["plain", "team/chat", "team/sql"]


def test_pools_of_a_directory_of_adapters_are_checked_as_those_of_tasks(tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapters" / "sql")
    wrong = "adapters: [{directory: adapters, prefill: base, decode: base}]"
    assert str(refusal(wrong, tmp_path)).startswith("tasks.sql.prefill: pool `base` is a decode pool")


def test_directory_without_adapters_is_one_error_with_its_path(tmp_path: Path) -> None:
    text = "adapters: [{directory: adapters, prefill: shared, decode: base}]"
    absent = refusal(text, tmp_path)
    assert (absent.where, "cannot be read (No such file" in absent.problem) == ("adapters.0.directory", True)
    (tmp_path / "adapters").mkdir()
    assert "holds no directory of an adapter" in str(refusal(text, tmp_path))
    write_adapter(tmp_path / "adapters")
    assert "it is an adapter itself: name it as the `adapter` of a task" in str(refusal(text, tmp_path))


def test_name_that_is_given_twice_or_is_no_name_of_a_task_is_one_error(tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapters" / "sql")
    text = "adapters: [{directory: adapters, prefill: shared, decode: base}]"
    twice = refusal(f"tasks: {{sql: {{prefill: shared, decode: base}}}}\n{text}", tmp_path)
    assert twice.where == "adapters.0.directory"
    assert "is the task `sql`, and another task has that name; rename" in str(twice)
    write_adapter(tmp_path / "adapters" / "two words")
    assert "`two words` is no name of a task; rename it" in str(refusal(text, tmp_path))


def test_adapter_in_a_directory_that_is_not_whole_is_an_error_and_not_left_out(tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapters" / "sql")
    (write_adapter(tmp_path / "adapters" / "chat") / "adapter_config.json").unlink()
    found = refusal("adapters: [{directory: adapters, prefill: shared, decode: base}]", tmp_path)
    assert f"{tmp_path / 'adapters' / 'chat'}: holds adapter_model.safetensors and no adapter_config" in found.problem
