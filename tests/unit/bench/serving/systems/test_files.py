from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sun_sglang.bench.load.errors import BenchError
from sun_sglang.bench.serving.systems.files import load_systems

EMULATED: dict[str, Any] = {
    "pools": {"base": {"role": "decode", "model": "none/base"}, "a": {"role": "prefill", "model": "none/a"}},
    "tasks": {"a": {"prefill": "a", "decode": "base"}, "b": {"prefill": "a", "decode": "base"}},
    "backend": "emulated",
    "router": {"port": 0},
}


@pytest.fixture(autouse=True)
def unchecked_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the flags of SGLang unchecked: its parser takes seconds to read."""
    for module in ("launch.deployment", "bench.serving.systems.peer_system"):
        monkeypatch.setattr(f"sun_sglang.{module}.load_flag_schema", lambda: None)


def write(file: Path, content: Any) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


def peer(file: Path, *tasks: str, **engine: Any) -> Path:
    return write(file, {"servers": [{"name": task, "model": f"org/{task}"} for task in tasks], "engine": engine})


async def test_systems_of_both_kinds_of_files_have_the_tasks_of_the_first(tmp_path: Path) -> None:
    files = [write(tmp_path / "sun.yaml", EMULATED), peer(tmp_path / "plain.yaml", "b", "a")]
    systems, tasks = await load_systems(files, tmp_path / "run", {})
    assert [(system.report.name, system.report.kind) for system in systems] == [("sun", "topology"), ("plain", "peer")]
    assert tasks == ("a", "b")
    assert systems[0].report.definition == EMULATED
    assert not (tmp_path / "run").exists()


async def test_systems_with_one_file_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    files = [write(tmp_path / folder / "sun.yaml", EMULATED) for folder in ("one", "two")]
    systems, _ = await load_systems(files, tmp_path / "run", {})
    assert [system.report.name for system in systems] == [str(file) for file in files]


async def test_systems_with_different_tasks_or_dtypes_are_refused(tmp_path: Path) -> None:
    sun = write(tmp_path / "sun.yaml", EMULATED)
    with pytest.raises(BenchError, match="sun and plain cannot be compared: different tasks: `a`, `b` and `a`, `c`"):
        await load_systems([sun, peer(tmp_path / "plain.yaml", "a", "c")], tmp_path / "run", {})
    files = [peer(tmp_path / "x.yaml", "a", dtype="half"), peer(tmp_path / "y.yaml", "a", dtype="bfloat16")]
    with pytest.raises(BenchError, match="x and y cannot be compared: different dtypes: `float16` and `bfloat16`"):
        await load_systems(files, tmp_path / "run", {})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"servers": []}, r"wrong\.yaml: servers: "),
        ({"pools": {}, "tasks": {}}, r"wrong\.yaml: pools: "),
        ({**EMULATED, "router": {"port": -1}}, r"wrong\.yaml: router\.port: "),
        ("text", r"wrong\.yaml: .*has no keys"),
    ],
)
async def test_systems_whose_file_is_wrong_name_it(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        await load_systems([write(tmp_path / "wrong.yaml", content)], tmp_path / "run", {})
