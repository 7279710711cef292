from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sun_sglang.bench.serving.result import write_result
from tests.support.bench_results import result
from tests.unit.cli.conftest import Sun


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Two results: sun and isolated at two points, and plain at the same points."""
    found = [tmp_path / "a.json", tmp_path / "b.json"]
    for file, systems in zip(found, (("sun", "isolated"), ("plain",)), strict=True):
        write_result(result(systems, zipf=(0.0, 1.5), concurrency=(8,)), file)
    return [str(file) for file in found]


def test_bench_from_one_result_prints_what_its_run_printed(sun: Sun, files: list[str]) -> None:
    code, out, err = sun("--from", files[0])
    assert (code, err) == (0, "")
    assert "medians of up to 3 repetitions" in out


def test_bench_from_results_compares_the_systems_of_all_in_one_table(
    sun: Sun, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = sun("--from", *files)
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert ["Zipf", "0", "sun", "40.0", "40.0", "109", "690", "1"] in lines
    assert ["plain", "20.8", "5.20", "185", "690", "1.92x"] in lines
    assert ["38.8-41.2", "38.8-41.2", "106-113", "690-690"] in lines
    assert out.startswith("sun serves 2.04 times (2.04 to 2.04) the output tokens of isolated, ")


def test_bench_from_results_writes_a_page(sun: Sun, files: list[str], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    code, _, err = sun("--from", *files, "--report", str(page))
    assert (code, err) == (0, f"written to {page}\n")
    assert "<title>Benchmark of sun, isolated and plain</title>" in page.read_text()


@pytest.mark.parametrize(
    ("content", "message"), [(None, "No such file or directory"), ("{", ""), ("[]", ""), ("null", "")]
)
def test_bench_from_a_file_that_is_no_result_names_it(
    sun: Sun, tmp_path: Path, content: str | None, message: str
) -> None:
    file = tmp_path / "bad.json"
    if content is not None:
        file.write_text(content)
    code, out, err = sun("--from", str(file))
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {file}: {message}")
    assert err.count("\n") == 1


def test_bench_from_a_result_does_not_replace_it(sun: Sun, files: list[str]) -> None:
    before = Path(files[0]).read_bytes()
    code, _, err = sun("--from", *files, "--report", files[0])
    assert code == 1
    assert "is another file of this command" in err
    assert Path(files[0]).read_bytes() == before


def test_bench_report_without_the_extra_names_it_before_anything_is_measured(
    sun: Sun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, err = sun("--report", str(tmp_path / "page.html"))
    assert (code, out) == (1, "")
    assert err == "error: --report: matplotlib cannot be imported; pip install 'sun-sglang[bench]'\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--from",), "--from needs the files of results"),
        (("--from", "a.json", "--zipf", "1"), "leave --zipf out"),
        (("--from", "a.json", "--output", "b.json"), "leave --output out"),
        (("--from", "a.json", "--url", "http://x"), "leave --url out"),
    ],
)
def test_bench_from_with_a_flag_that_measures_is_wrong_usage(
    sun: Sun, arguments: tuple[str, ...], message: str
) -> None:
    code, _, err = sun(*arguments)
    assert code == 2
    assert message in err
