"""The messages of workers as clients read them."""

from __future__ import annotations

import orjson
import pytest

from sun_sglang.router.dispatch.outcome.decision import AttemptFailed, Relay, decide
from sun_sglang.router.dispatch.outcome.worker_message import for_client
from sun_sglang.router.dispatch.outcome.worker_refusal import event_error
from sun_sglang.router.transport.messages import LegResponse

FAULTS = (
    "{'type': 'missing', 'loc': ('body', 'tools', 0, 'function'), 'msg': 'Field required', 'input': {'type': 'x'}}",
    "{'type': 'value_error', 'loc': ('body', 'max_tokens'), 'msg': \"Value error, it isn't positive\", "
    "'input': 0, 'ctx': {'error': ValueError('no')}}",
)
SOURCE = '  File "/home/me/.venv/lib/site-packages/sglang/http_server.py", line 1860, in openai_v1\n    POST /v1/x'
# as SGLang writes it: FastAPI's text, and then the list of errors again
VALIDATION = f"2 validation errors:\n  {FAULTS[0]}\n  {FAULTS[1]}\n\n{SOURCE} [{FAULTS[0]}, {FAULTS[1]}]"


def test_validation_errors_become_fields_and_reasons() -> None:
    text, param = for_client(VALIDATION)
    assert text == "`tools.0.function`: Field required; `max_tokens`: Value error, it isn't positive"
    assert param == "tools.0.function"


def test_types_that_sglang_tries_one_after_the_other_are_no_part_of_a_field() -> None:
    after = "function-after[validate_thinking_parts_role(), ChatCompletionMessageGenericParam]"
    literal = "\"literal['low','high']\""
    message = (
        f"4 errors:\n  {{'loc': ('body', 'messages', 0, '{after}', 'tool_calls', 0, 'id'), 'msg': 'No text'}}\n"
        f"  {{'loc': ('body', 'effort', {literal}), 'msg': \"'low' or 'high'\", 'input': 'x'}}\n"
        "  {'loc': ('body', 'effort', 'constrained-float'), 'msg': 'A number'}\n  {'loc': ('body',), 'msg': 'No'}\n"
    )
    text, param = for_client(message + SOURCE)
    assert text == "`messages.0.tool_calls.0.id`: No text; `effort`: 'low' or 'high', or: A number; `body`: No"
    assert param == "messages.0.tool_calls.0.id"


@pytest.mark.parametrize("count", [100, 3000])
def test_message_that_never_ends_a_place_is_read_in_linear_time(count: int) -> None:
    for piece in ("'loc': (", "'loc': ('a', ", "'", '"', "/a", "1", "a", " ", "'loc': ('body'), 'msg': '", "[1:"):
        for_client("'loc': (" + piece * count)


@pytest.mark.parametrize("most", range(40, len(VALIDATION), 13))
def test_validation_errors_that_were_cut_off_show_no_path(most: int) -> None:
    text, param = for_client(VALIDATION[:most])
    assert "/home" not in text
    assert param == ("tools.0.function" if "Field required'" in VALIDATION[:most] else None)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("no", "no"),
        ('Traceback:\n  File "/a/b/c.py", line 3, in f\nValueError: no', "Traceback:\nValueError: no"),
        ("[Errno 2] No such file: '/srv/models/base/x.json'", "[Errno 2] No such file: 'x.json'"),
        ("bad: [10:02:07] /project/cpp/json_schema_converter.cc:4181: no", "bad: no"),
        ("bad (/project/cpp/converter.cc:4181)", "bad ()"),
        ("see https://host.example/a/b/c", "see https://host.example/a/b/c"),
        ("there is no /v1/chat/completions", "there is no /v1/chat/completions"),
        ("`#/$defs/a/b` is no schema, a/b/c/d is none", "`#/$defs/a/b` is no schema, a/b/c/d is none"),
    ],
)
def test_message_loses_paths_and_nothing_else(message: str, text: str) -> None:
    assert for_client(message).text == text


@pytest.mark.parametrize(
    "body",
    [
        orjson.dumps({"object": "error", "message": VALIDATION, "code": 400}),
        orjson.dumps({"error": {"message": VALIDATION}}),
        orjson.dumps(
            {"detail": [{"type": "missing", "loc": ["body", "tools", 0, "function"], "msg": "Field required"}]}
        ),
    ],
)
def test_refusal_names_the_field_and_no_file(body: bytes) -> None:
    outcome = decide(LegResponse(400, body), None)
    assert isinstance(outcome, Relay)
    assert outcome.error.message.startswith("`tools.0.function`: Field required")
    assert outcome.error.param == "tools.0.function"
    assert "/home" not in outcome.error.message


def test_failure_of_a_worker_names_no_file() -> None:
    outcome = decide(None, LegResponse(500, orjson.dumps({"error": {"message": "it broke\n" + SOURCE}})))
    assert isinstance(outcome, AttemptFailed)
    assert "it broke" in outcome.error.message
    assert "/home" not in outcome.error.message
    assert "/home" not in event_error(orjson.dumps({"error": {"message": SOURCE}})).message
