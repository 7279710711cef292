from __future__ import annotations

from pathlib import Path

import pytest

from sun_sglang.errors import TopologyError, UserError
from sun_sglang.files.local_path import local_path
from sun_sglang.topology_file import load_topology


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MODELS", "below")
    monkeypatch.delenv("ABSENT", raising=False)
    return tmp_path


@pytest.mark.parametrize("text", ["~/m", "$HOME/m", "${HOME}/m", "./m", "m"])
def test_path_with_a_home_or_a_variable_is_expanded(home: Path, text: str) -> None:
    assert local_path(text, home) == home / "m"
    assert local_path("${HOME}/$MODELS/x", Path("/other")) == home / "below" / "x"


@pytest.mark.parametrize(
    ("text", "reason"),
    [("${ABSENT}/m", "the variable `ABSENT` is not set"), ("~nobody-here/m", "home directory"), ("a\0b", "null byte")],
)
def test_path_that_cannot_be_expanded_is_one_error(home: Path, text: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        local_path(text, home)


def test_topology_names_the_place_of_a_variable_that_is_not_set(home: Path) -> None:
    file = home / "sun.yaml"
    pools = "pools: {p: {role: prefill, model: '${ABSENT}/a'}, d: {role: decode, model: '$HOME/d'}}"
    file.write_text(f"{pools}\ntasks: {{t: {{prefill: p, decode: d}}}}\n")
    with pytest.raises(TopologyError, match=r"pools\.p\.model: .*`ABSENT` is not set"):
        load_topology(file)
    file.write_text(file.read_text().replace("${ABSENT}", "${HOME}/$MODELS"))
    assert load_topology(file).pools["p"].model == str(home / "below" / "a")
