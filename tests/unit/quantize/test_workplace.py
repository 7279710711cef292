from __future__ import annotations

from pathlib import Path

import pytest

from sun_sglang.errors import QuantizeError
from sun_sglang.quantize.workplace import workplace, workplace_of


def test_workplace_is_removed_after_work_and_after_error(tmp_path: Path) -> None:
    with workplace(tmp_path / "out") as place:
        (place / "file").touch()
    with pytest.raises(ZeroDivisionError), workplace(tmp_path / "out"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_workplace_of_killed_run_is_cleared_and_of_running_one_refused(tmp_path: Path) -> None:
    with workplace(tmp_path / "out") as place:
        second = workplace(tmp_path / "out")
        with pytest.raises(QuantizeError, match="another process is writing"):
            second.__enter__()
    place.mkdir()
    (place / "sun-quantize").touch()
    (place / "checkpoint").mkdir()
    (place / "code").symlink_to(tmp_path)
    with workplace(tmp_path / "out") as place:
        assert [path.name for path in place.iterdir()] == ["sun-quantize"]


def test_directory_of_someone_else_is_left_alone(tmp_path: Path) -> None:
    place = workplace_of(tmp_path / "out")
    place.mkdir()
    (place / "mine").touch()
    with pytest.raises(QuantizeError, match="is not of sun quantize"), workplace(tmp_path / "out"):
        pass
    assert (place / "mine").exists()
