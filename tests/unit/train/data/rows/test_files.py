"""Rows of local files, in every form that people have."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sun_sglang.errors import RecipeError
from sun_sglang.train.data.rows.files import rows_of_file

ROWS = [{"q": "Ü?", "a": "1"}, {"q": "b\u2028b", "a": "007"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def read(path: Path) -> list[dict[str, Any]]:
    return [dict(row) for _, row in rows_of_file(path, "data.file")]


def parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue().to_pybytes())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("d.jsonl", LINES),
        ("d.json", LINES.rstrip()),
        ("blank lines.jsonl", b"\n" + LINES + b"\n  \n\n"),
        ("windows.jsonl", LINES.replace(b"\n", b"\r\n")),
        ("bom.jsonl", b"\xef\xbb\xbf" + LINES),
        ("array.json", json.dumps(ROWS, indent=2).encode()),
        ("bom array.json", b"\xef\xbb\xbf\n" + json.dumps(ROWS).encode()),
        ("d.jsonl.gz", gzip.compress(LINES, mtime=0)),
        ("no suffix", gzip.compress(LINES, mtime=0)),
        ("d.jsonl.bz2", bz2.compress(LINES)),
        ("d.json.xz", lzma.compress(json.dumps(ROWS).encode())),
        ("d.csv", 'q,a\nÜ?,1\n\n"b\u2028b",007\n'.encode()),
        ("bom.csv", "\ufeffq,a\nÜ?,1\nb\u2028b,007\n".encode()),
        ("d.tsv", "q\ta\nÜ?\t1\nb\u2028b\t007\n".encode()),
        ("d.csv.gz", gzip.compress("q,a\nÜ?,1\nb\u2028b,007\n".encode(), mtime=0)),
        ("d.parquet", parquet(ROWS)),
        ("part [1] of *.parquet", parquet(ROWS)),
    ],
)
def test_every_form_of_a_file_gives_the_same_rows(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert read(tmp_path / name) == ROWS


def test_cells_of_csv_stay_text(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text('q,a\n"two\nlines, ""quoted""",NA\n0.10,\n')
    placed = list(rows_of_file(tmp_path / "d.csv", "data.file"))
    assert [row for _, row in placed] == [{"q": 'two\nlines, "quoted"', "a": "NA"}, {"q": "0.10", "a": ""}]
    assert [Path(where).name for where, _ in placed] == ["d.csv:2", "d.csv:4"]


def test_rows_of_parquet_have_no_keys_of_other_rows(tmp_path: Path) -> None:
    rows = [{"m": [{"role": "user", "args": {"a": 1}}]}, {"m": [{"role": "tool", "args": {"b": [None, 2]}, "id": "x"}]}]
    (tmp_path / "d.parquet").write_bytes(parquet(rows))
    assert read(tmp_path / "d.parquet") == rows


def test_parquet_is_read_without_a_cache_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # it makes its cache directory in a home that may be read-only
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "d.parquet").write_bytes(parquet(ROWS * 1000))
    placed = list(rows_of_file(tmp_path / "d.parquet", "data.file"))
    assert [row for _, row in placed] == ROWS * 1000
    assert placed[-1][0] == f"{tmp_path}/d.parquet, row 2000"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("latin1.jsonl", LINES + '{"q": "é"}\n'.encode("latin-1"), r"latin1.jsonl:3: is not UTF-8 \(byte 0xe9 at"),
        ("latin1.csv", "q,a\né,1\n".encode("latin-1"), r"latin1.csv:2: is not UTF-8"),
        ("utf16.jsonl", LINES.decode().encode("utf-16"), "utf16.jsonl: is UTF-16; save the file as UTF-8"),
        ("utf16.csv", "q,a\n".encode("utf-16"), "utf16.csv: is UTF-16"),
        ("d.jsonl", b'{"q": 1}\nnope\n', r"d.jsonl:2: is not JSON \(Expecting value at character 1\)"),
        ("d.jsonl", b'{"q": 1}\n[1]\n', "d.jsonl:2: is not a JSON object"),
        ("d.json", b'[{"q": 1},\n 3]', "d.json, item 2: is not a JSON object"),
        ("d.json", b'[{"q": 1},\n oops]', r"d.json:2: is not JSON"),
        ("deep.jsonl", b'{"q": ' + b"[" * 200_000, "deep.jsonl:1: is nested too deeply"),
        ("cut.jsonl.gz", gzip.compress(LINES * 100, mtime=0)[:40], "data.file: .*cut.jsonl.gz: cannot be read"),
        ("broken.jsonl.xz", lzma.compress(LINES)[:20] + b"x" * 20, "data.file: .*broken.jsonl.xz: cannot be read"),
        ("d.zip", b"PK\x03\x04....", "d.zip: is a zip archive; unpack it"),
        ("d.csv", b"q,a\n1,2,3\n", "d.csv:2: has 3 cells, and the header has 2 columns"),
        ("d.csv", b"q,q\n1,2\n", "d.csv:1: the column `q` is there twice"),
        ("d.csv", b'q,a\n1,2\n"open,1\n', "d.csv:3: is not CSV"),
        ("d.parquet", b"PAR1 and no more", r"d.parquet: is not a readable Parquet file"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_its_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RecipeError, match=message):
        read(tmp_path / name)


def test_a_missing_file_and_a_directory_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(RecipeError, match=r"data.file: .*: cannot be read"):
            read(path)
