from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from sun_sglang.errors import UserError
from sun_sglang.files.user_cache import cache_directory, engine_caches, read_cached, write_cached
from sun_sglang.strict import Strict


class Fact(Strict):
    number: int


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a temporary directory of this test alone."""
    directory = tmp_path / "tmp"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    return directory


@pytest.fixture
def unwritable(tmp_path: Path) -> Path:
    """Return the path of a directory that nobody, not even root, can make or write."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "home"


def test_fact_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert read_cached("fact.json", Fact) is None
    write_cached("fact.json", Fact(number=1))
    assert read_cached("fact.json", Fact) == Fact(number=1)


def test_damaged_fact_is_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_cached("fact.json", Fact(number=1))
    (tmp_path / "cache" / "sun-sglang" / "fact.json").write_text("{")
    assert read_cached("fact.json", Fact) is None


def test_home_that_cannot_be_written_is_replaced_by_a_private_directory(
    unwritable: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(unwritable))
    write_cached("fact.json", Fact(number=1))
    assert read_cached("fact.json", Fact) == Fact(number=1)
    (private,) = temporary.iterdir()
    assert private.stat().st_mode & 0o777 == 0o700


def test_directory_that_others_can_write_is_not_used(unwritable: Path, temporary: Path) -> None:
    environ = {"XDG_CACHE_HOME": str(unwritable)}
    private = cache_directory(environ)
    assert private is not None
    private.chmod(0o777)
    assert cache_directory(environ) is None


def test_link_in_place_of_the_private_directory_is_not_used(unwritable: Path, tmp_path: Path) -> None:
    environ = {"XDG_CACHE_HOME": str(unwritable)}
    private = cache_directory(environ)
    assert private is not None
    private.rmdir()
    private.symlink_to(tmp_path)
    assert cache_directory(environ) is None


def test_engine_has_its_own_caches_where_the_home_can_be_written(tmp_path: Path) -> None:
    assert engine_caches({"XDG_CACHE_HOME": str(tmp_path / "cache")}) == {}


def test_engine_gets_caches_where_the_home_cannot_be_written(unwritable: Path, temporary: Path) -> None:
    given = engine_caches({"XDG_CACHE_HOME": str(unwritable), "TRITON_CACHE_DIR": "/mine"})
    assert "TRITON_CACHE_DIR" not in given, "the user's choice stays"
    assert {Path(given[name]).is_relative_to(temporary) for name in given} == {True}
    assert {"XDG_CACHE_HOME", "SGLANG_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"} <= set(given)


def test_inductor_gets_a_cache_where_the_temporary_directory_cannot_be_written(
    unwritable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(unwritable))
    cache = tmp_path / "cache"
    assert engine_caches({"XDG_CACHE_HOME": str(cache)}) == {"TORCHINDUCTOR_CACHE_DIR": str(cache / "torchinductor")}


def test_machine_without_a_writable_directory_gets_the_variable_to_set(
    unwritable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(unwritable))
    with pytest.raises(UserError, match="set XDG_CACHE_HOME"):
        engine_caches({"XDG_CACHE_HOME": str(unwritable)})
