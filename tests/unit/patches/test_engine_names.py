from __future__ import annotations

import re
from pathlib import Path

import pytest

from sun_sglang.patches.engine_names import USES
from sun_sglang.patches.engine_use import Use

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("use", USES, ids=lambda use: use.name)
def test_use_of_an_engine_name_names_files_that_hold_the_name(use: Use) -> None:
    last = re.split(r"[.:]", use.name)[-1]
    for file in use.by.split(", "):
        text = (ROOT / file).read_text()
        assert any(word.strip('"') in text for word in (last, *use.attributes, *use.keys)), file
