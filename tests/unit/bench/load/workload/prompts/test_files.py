"""The values of `--input-file`: tasks and formats."""

from __future__ import annotations

from pathlib import Path

import pytest

from sun_sglang.bench.load.errors import BenchError
from sun_sglang.bench.load.workload.prompts.files import detect, read_files

TASKS = ("math", "code", "a=b")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b'[{"conversations": []}]', "sharegpt"),
        (b"\xef\xbb\xbf\n [1]", "sharegpt"),
        (b"TIMESTAMP,ContextTokens,GeneratedTokens\n", "azure_trace"),
        (b'{"timestamp": 1, "input_length": 5}', "mooncake_trace"),
        (b'{"prompt": "TIMESTAMP"}', "single_turn"),
        (b"", "single_turn"),
        (b"\xff", "single_turn"),
    ],
)
def test_format_of_a_file_is_that_of_its_first_line(content: bytes, kind: str) -> None:
    assert detect(content) == kind


def test_input_file_of_a_task_is_for_it_and_the_other_for_all(tmp_path: Path) -> None:
    for name in ("x=1.jsonl", "y.jsonl", "z.jsonl"):
        (tmp_path / name).write_text('{"prompt": "a"}')
    values = (str(tmp_path / "x=1.jsonl"), f"math={tmp_path}/y.jsonl", f"a=b={tmp_path}/z.jsonl")
    assert [file.task for file in read_files(values, TASKS, None, 512)] == [None, "math", "a=b"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["history=x"], "--input-file: `history=x` names an unknown task `history`; tasks: math, code, a=b"),
        (["math=nowhere"], "nowhere: cannot be read: No such file"),
        (["."], ".: cannot be read: Is a directory"),
        (["{file}", "{file}"], "--input-file: two files are for all tasks; give one"),
        (["math={file}", "math={file}"], "--input-file: two files are for task `math`; give one"),
        (["a\0b"], "cannot be read"),
        (["x" * 5000], "cannot be read: File name too long"),
        (["x" * 5000 + "=y"], "names an unknown task"),
    ],
)
def test_input_file_that_is_wrong_is_named(tmp_path: Path, values: list[str], message: str) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text('{"prompt": "a"}')
    with pytest.raises(BenchError) as error:
        read_files([value.format(file=file) for value in values], TASKS, None, 512)
    assert message in str(error.value)
