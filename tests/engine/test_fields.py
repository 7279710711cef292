"""The table of request fields against SGLang's own classes: a new field of a new version fails here by its name.

One table serves every version that the product runs on, so it may pass on a field that the installed version lacks.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from sun_sglang.router.protocol.fields import table as field_table
from sun_sglang.router.protocol.fields.table import Table

# SGLang reads it from the body itself (protocol.py: normalize_reasoning_inputs)
BEYOND_ITS_CLASS = {"chat": {"reasoning"}}
# an older version lacks these, and ignores them
NEWER = {
    "completions": {"watermark"},
    "chat": {"watermark", "thinking", "return_flat_raw_output_top_logprobs", "return_flat_raw_top_logprobs_b64"},
    "generate": {"watermark", "return_flat_raw_output_top_logprobs"},
}

# A process of its own: what the engine needs on a machine without a GPU changes the process that imports it.
READ = """
import dataclasses, json
from pydantic import TypeAdapter
from sun_sglang.cpu import has_gpu, prepare_cpu_engine
if not has_gpu():
    prepare_cpu_engine()
from sglang.srt.entrypoints.openai.protocol import ChatCompletionRequest, CompletionRequest
from sglang.srt.managers.io_struct import GenerateReqInput
from sglang.srt.sampling.sampling_params import SamplingParams
# raises where an unknown field is refused
CompletionRequest.model_validate({"prompt": "x", "unknown": 1})
ChatCompletionRequest.model_validate({"messages": [{"role": "user", "content": "x"}], "unknown": 1})
TypeAdapter(GenerateReqInput).validate_python({"text": "x", "unknown": 1})
print(json.dumps({
    "completions": list(CompletionRequest.model_fields),
    "chat": list(ChatCompletionRequest.model_fields),
    "generate": [field.name for field in dataclasses.fields(GenerateReqInput)],
    "sampling_params": list(SamplingParams.__struct_fields__),
}))
"""


@pytest.fixture(scope="module")
def fields_of_sglang() -> dict[str, set[str]]:
    done = subprocess.run([sys.executable, "-c", READ], capture_output=True, text=True, timeout=120, check=True)
    return {where: set(names) for where, names in json.loads(done.stdout.splitlines()[-1]).items()}


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
