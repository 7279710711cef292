"""The table of request fields against SGLang's own classes: a new field of a new version fails here by its name.

One table serves every version that the product runs on, so it may pass on a field that the installed version lacks.
"""

from __future__ import annotations

import pytest

from sun_sglang.router.protocol.fields import table as field_table
from sun_sglang.router.protocol.fields.table import Table
from tests.support.sglang_questions import SGLangQuestions

# SGLang reads it from the body itself (protocol.py: normalize_reasoning_inputs)
BEYOND_ITS_CLASS = {"chat": {"reasoning"}}
# an older version lacks these, and ignores them
NEWER = {
    "completions": {"watermark"},
    "chat": {"watermark", "thinking", "return_flat_raw_output_top_logprobs", "return_flat_raw_top_logprobs_b64"},
    "generate": {"watermark", "return_flat_raw_output_top_logprobs"},
}


@pytest.fixture(scope="module")
def fields_of_sglang(ask_sglang: SGLangQuestions) -> dict[str, set[str]]:
    return {where: set(names) for where, names in ask_sglang("tests.engine.answers:request_fields").items()}


TABLES: dict[str, Table] = {
    "completions": field_table.COMPLETIONS,
    "chat": field_table.CHAT,
    "generate": field_table.GENERATE,
    "sampling_params": field_table.SAMPLING_PARAMS,
}


@pytest.mark.invariant("I15")
@pytest.mark.parametrize("where", TABLES)
def test_every_field_that_sglang_accepts_has_a_rule(where: str, fields_of_sglang: dict[str, set[str]]) -> None:
    assert not sorted(fields_of_sglang[where] - TABLES[where].keys()), "decide in router/protocol/fields/table.py"


@pytest.mark.parametrize("where", TABLES)
def test_every_field_that_is_passed_on_is_one_of_sglangs(where: str, fields_of_sglang: dict[str, set[str]]) -> None:
    passed = {name for name, rule in TABLES[where].items() if isinstance(rule, field_table.Forwarded)}
    known = fields_of_sglang[where] | BEYOND_ITS_CLASS.get(where, set()) | NEWER.get(where, set())
    assert not sorted(passed - known)
