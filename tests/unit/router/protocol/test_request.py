"""Client bodies: accepted and refused ones, and several answers that split and merge to the reply of one server."""

from __future__ import annotations

import json
from collections.abc import Collection
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sun_sglang.errors import RequestError
from sun_sglang.router.dispatch.legs.pair_request import make_pair_requests
from sun_sglang.router.protocol.fan_out import has_several_answers, merge_replies, merge_usage, reindex, split_request
from sun_sglang.router.protocol.fields import table as field_table
from sun_sglang.router.protocol.fields.patterns import check_patterns
from sun_sglang.router.protocol.fields.table import Dropped, Forwarded, Refused, Table
from sun_sglang.router.protocol.logprobs import PrefillLogprobs
from sun_sglang.router.protocol.request import Endpoint, Request, parse_request
from sun_sglang.router.protocol.sse import EventFramer, StreamFilter, event, event_data
from sun_sglang.router.protocol.worker_replies import BadReplyError
from sun_sglang.router.scheduling.cost import Cost, estimate_cost

TASKS = ["math", "tool"]
MINIMAL: dict[Endpoint, dict[str, Any]] = {
    Endpoint.GENERATE: {"text": "hi"},
    Endpoint.COMPLETIONS: {"prompt": "hi"},
    Endpoint.CHAT: {"messages": [{"role": "user", "content": "hi"}]},
}


TABLES: dict[Endpoint, Table] = {
    Endpoint.GENERATE: field_table.GENERATE,
    Endpoint.COMPLETIONS: field_table.COMPLETIONS,
    Endpoint.CHAT: field_table.CHAT,
}
GATES = ("stop_regex", "regex", "ebnf", "structural_tag")


def read(endpoint: Endpoint, *, allowed: Collection[str] = (), **body: Any) -> Request:
    raw = json.dumps({**MINIMAL[endpoint], **body}).encode()
    return parse_request(endpoint, raw, header_task="math", tasks=TASKS, allowed=allowed)


def refused(endpoint: Endpoint, *, allowed: Collection[str] = (), **body: Any) -> RequestError:
    with pytest.raises(RequestError) as e:
        split_request(read(endpoint, allowed=allowed, **body))
    assert e.value.status == 400
    return e.value


# --- nothing but RequestError -----------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
NAMES = """
text input_ids input_embeds prompt messages sampling_params n stream stream_options model rid extra_key cache_salt
logprobs top_logprobs top_logprobs_num logprob_start_len stop stop_regex temperature max_tokens token_ids_logprob
return_logprob image_data echo tools return_hidden_states custom_params response_format seed
"""
FIELDS = sorted({*NAMES.split(), *(name for table in TABLES.values() for name in table)})
BODIES = st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=6)


@given(st.sampled_from(list(Endpoint)), BODIES, st.booleans())
@example(Endpoint.GENERATE, {"text": ["a"], "sampling_params": [{"n": 2}], "return_logprob": [True]}, False)
@example(Endpoint.GENERATE, {"text": "a", "stop": {}, "sampling_params": {"stop": [1]}}, False)
@example(Endpoint.CHAT, {"messages": [{"content": [3]}]}, False)
def test_any_body_is_a_request_or_a_request_error(endpoint: Endpoint, body: dict[str, Any], whole: bool) -> None:
    full = {**MINIMAL[endpoint], **body} if whole else body
    try:
        request = parse_request(endpoint, orjson.dumps(full), header_task="math", tasks=TASKS)
        singles = split_request(request)
        costs = [estimate_cost(endpoint, single.body) for single in singles[:: request.n]]
        calls = make_pair_requests(request, singles, costs, worker_model="math")
    except RequestError:
        return
    assert len(singles) == (request.batch or 1) * request.n
    for call in calls:
        sent = orjson.loads(call.shared + call.own + b"}")
        for name in sent.keys() - {"model"}:
            assert isinstance(TABLES[endpoint][name], Forwarded)


@pytest.mark.invariant("I16")
@given(st.binary(max_size=40))
def test_any_bytes_are_a_request_or_a_request_error(raw: bytes) -> None:
    for endpoint in Endpoint:
        with pytest.raises(RequestError):
            parse_request(endpoint, raw, header_task="math", tasks=TASKS)


# --- fields -----------------------------------------------------------------------------------------------------------


EVERY_RULE = [
    pytest.param(endpoint, name, rule, id=f"{endpoint}-{name}")
    for endpoint, table in TABLES.items()
    for name, rule in table.items()
    if name != "model"  # the header wins here
]
OUT_OF_BOUNDS: tuple[Any, ...] = (
    "x" * 100_000,
    -(1 << 63) - 1,
    1 << 63,
    1e300,
    -1.5,
    [None],
    [[[]]],
    {"": "x"},
    [{}] * 2000,
)


@pytest.mark.invariant("I15")
@pytest.mark.parametrize(("endpoint", "name", "rule"), EVERY_RULE)
def test_field_of_the_table_follows_its_rule(endpoint: Endpoint, name: str, rule: field_table.Rule) -> None:
    assert name in MINIMAL[endpoint] or name not in read(endpoint, **{name: None}).body
    if isinstance(rule, Refused):
        assert (refused(endpoint, **{name: 7}).param, refused(endpoint, **{name: 7}).code) == (name, "reserved_field")
        assert name in refused(endpoint, **{name: "x"}).message
        for nothing in (None, False, "", [], {}):
            assert name not in read(endpoint, **{name: nothing}).body
    elif isinstance(rule, Dropped):
        for value in OUT_OF_BOUNDS:
            assert name not in read(endpoint, **{name: value}).body
    elif rule.type.boundaries:
        for edge in rule.type.boundaries:
            assert rule.type.accepts(edge), edge
        if isinstance(rule, Forwarded):
            read_at_edges(endpoint, name, rule)
        for value in OUT_OF_BOUNDS:
            if not rule.type.accepts(value):
                assert refused(endpoint, allowed=GATES, **{name: value}).param == name, value


def read_at_edges(endpoint: Endpoint, name: str, rule: Forwarded) -> None:
    for edge in rule.type.boundaries:
        body = {"tools": [], "tool_choice": "none"}
        if name == "json_schema":
            continue  # must be JSON as well
        assert read(endpoint, allowed=GATES, **{**body, name: edge}).body[name] == edge
        if rule.permission:
            assert refused(endpoint, **{name: edge}).code == "field_not_allowed"


@pytest.mark.parametrize("endpoint", list(Endpoint))
@pytest.mark.parametrize("name", ["store", "metadata", "service_tier", "prompt_cache_key", "whatever_comes_next"])
def test_unknown_field_is_dropped_without_a_word(endpoint: Endpoint, name: str) -> None:
    for value in (True, "x", {"a": 1}, ["text"]):
        assert name not in read(endpoint, **{name: value}).body


@pytest.mark.parametrize("content", ["", None])
def test_final_message_without_text_that_is_the_only_one_cannot_be_continued(content: str | None) -> None:
    messages = [{"role": "assistant", "content": content}]
    error = refused(Endpoint.CHAT, messages=messages, continue_final_message=True)
    assert error.param == "continue_final_message"
    before = [{"role": "user", "content": "x"}, *messages]
    assert read(Endpoint.CHAT, messages=before, continue_final_message=True).body["messages"] == before


def test_reserved_field_lora_path_that_is_empty_is_dropped() -> None:
    assert "lora_path" not in read(Endpoint.COMPLETIONS, lora_path="").body


@pytest.mark.parametrize(
    "body",
    [
        {"stop_regex": r"(?s)(.|.)*\x00", "max_tokens": 60},
        {"stop_regex": ["(.|.)*" * 40] * 90},
        {"priority": 1 << 63},
        {"priority": 1},
    ],
)
@pytest.mark.parametrize("endpoint", list(Endpoint))
def test_field_that_stops_a_worker_is_refused_on_every_endpoint(endpoint: Endpoint, body: dict[str, Any]) -> None:
    if endpoint is Endpoint.GENERATE and "stop_regex" in body:
        params = {"stop_regex": body["stop_regex"]}
        error = refused(endpoint, sampling_params=params)
        assert error.param == "sampling_params.stop_regex"
        refused(endpoint, text=["a", "b"], sampling_params=[params, params])
    else:
        error = refused(endpoint, **body)
        assert error.param in body
    if "stop_regex" in body:
        assert "allow: [stop_regex]" in error.message


def test_pattern_of_a_client_is_never_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(*_: Any) -> None:
        raise AssertionError("compiled")

    monkeypatch.setattr("re.compile", compiled)
    patterns = ["((((a{1,9}){1,9}){1,9}){1,9}){1,9}" * 7] * 32
    assert read(Endpoint.COMPLETIONS, allowed=["stop_regex"], stop_regex=patterns).body["stop_regex"] == patterns
    refused(Endpoint.COMPLETIONS, allowed=["stop_regex"], stop_regex=[*patterns, "a"])


@pytest.mark.parametrize("patterns", ["(", "[", "a**", ["a", "(?P<x"], "(" * 250 + ")" * 6, "a{99999999999999999999}"])
@pytest.mark.parametrize("where", ["body", "sampling_params", "a list of them"])
async def test_pattern_that_is_none_is_refused_without_compiling(
    monkeypatch: pytest.MonkeyPatch, patterns: Any, where: str
) -> None:
    def compiled(*_: Any) -> None:
        raise AssertionError("compiled")

    body = {"stop_regex": patterns}
    held = {
        "body": body,
        "sampling_params": {"sampling_params": body},
        "a list of them": {"sampling_params": [{}, body]},
    }
    with monkeypatch.context() as patch:
        patch.setattr("re.compile", compiled)
        with pytest.raises(RequestError) as e:
            await check_patterns(held[where])
    assert (e.value.status, e.value.param) == (400, "stop_regex")


async def test_patterns_are_bounded_in_all() -> None:
    await check_patterns({"sampling_params": [{"stop_regex": ["(.|.)*" * 40, "x+"]}, {"stop_regex": "y"}, {}]})
    with pytest.raises(RequestError, match="8,192 characters"):
        await check_patterns({"sampling_params": [{"stop_regex": f"{i:0256}"} for i in range(33)]})


# --- grammars and nesting ---------------------------------------------------------------------------------------------

SLOW = "(.{1,9}){1,9}"
PATTERN = {"type": "object", "properties": {"a": {"type": "string", "pattern": SLOW}}}


def response_format(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


@pytest.mark.parametrize(
    ("endpoint", "body", "gate"),
    [
        (Endpoint.COMPLETIONS, {"regex": SLOW}, "regex"),
        (Endpoint.CHAT, {"ebnf": "root ::= root root"}, "ebnf"),
        (Endpoint.GENERATE, {"sampling_params": {"regex": SLOW}}, "regex"),
        (Endpoint.GENERATE, {"sampling_params": {"structural_tag": "{}"}}, "structural_tag"),
        (Endpoint.GENERATE, {"sampling_params": {"json_schema": orjson.dumps(PATTERN).decode()}}, "regex"),
        (Endpoint.COMPLETIONS, {"json_schema": orjson.dumps(PATTERN).decode()}, "regex"),
        (Endpoint.CHAT, {"response_format": response_format(PATTERN)}, "regex"),
        (Endpoint.CHAT, {"response_format": response_format({"patternProperties": {SLOW: {}}})}, "regex"),
        (Endpoint.CHAT, {"response_format": response_format({"$ref": "#/const", "const": PATTERN})}, "regex"),
        (Endpoint.CHAT, {"response_format": {"type": "structural_tag", "structures": []}}, "structural_tag"),
        (Endpoint.CHAT, {"tools": [{"function": {"parameters": PATTERN}}], "tool_choice": "required"}, "regex"),
        (Endpoint.CHAT, {"tools": [{"function": {"parameters": PATTERN, "strict": True}}]}, "regex"),
        (
            Endpoint.CHAT,
            {
                "messages": [{"role": "system", "tools": [{"function": {"parameters": PATTERN}}]}],
                "tool_choice": {"type": "function", "function": {"name": "x"}},
            },
            "regex",
        ),
    ],
)
def test_grammar_that_can_stop_a_worker_needs_the_topology(endpoint: Endpoint, body: dict[str, Any], gate: str) -> None:
    error = refused(endpoint, **body)
    assert error.code == "field_not_allowed"
    assert f"allow: [{gate}]" in error.message
    assert read(endpoint, allowed=[gate], **body)


@pytest.mark.parametrize(
    "schema",
    [
        {"anyOf": [{"type": "string", "maxLength": i} for i in range(200)]},
        {"anyOf": [{"anyOf": [{"type": "string", "maxLength": i + j} for i in range(20)]} for j in range(20)]},
        {"properties": {f"p{i}": {"type": "string"} for i in range(3000)}},
        {"enum": [f"{i:030}" for i in range(2000)]},
        {"const": "x" * 40_000},
        {"properties": {"x" * 40_000: {"type": "string"}}},
        json.loads('{"items":' * 65 + "{}" + "}" * 65),
        {"$ref": "#"},
        {"anyOf": [{"$ref": "#"}, {"type": "string"}]},
        {"type": "array", "items": {"allOf": [{"$ref": "#/items"}]}},
        {"$defs": {"a/b": {"$ref": "#/$defs/c"}, "c": {"oneOf": [{"$ref": "#/$defs/a~1b"}]}}, "type": "string"},
        {"$defs": {"é": {"$ref": "#/$defs/%C3%A9"}}},
    ],
)
def test_schema_out_of_bounds_is_refused(schema: dict[str, Any]) -> None:
    assert refused(Endpoint.CHAT, response_format=response_format(schema)).param == "response_format"
    assert refused(Endpoint.COMPLETIONS, json_schema=orjson.dumps(schema).decode()).param == "json_schema"


CALL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
STRICT = {"type": "function", "function": {"name": "f", "strict": True}}


@pytest.mark.parametrize(
    ("endpoint", "fields", "grammar"),
    [
        (Endpoint.COMPLETIONS, {"json_schema": "{}"}, "json_schema"),
        (Endpoint.COMPLETIONS, {"regex": "a"}, "regex"),
        (Endpoint.COMPLETIONS, {"response_format": {"type": "json_object"}}, "response_format"),
        (Endpoint.CHAT, {"ebnf": 'root ::= "a"'}, "ebnf"),
        (Endpoint.CHAT, {"response_format": response_format({"enum": ["a"]})}, "response_format"),
        (Endpoint.CHAT, {"tools": [CALL], "tool_choice": "required"}, "tools"),
        (Endpoint.CHAT, {"tools": [STRICT]}, "tools"),
        (Endpoint.CHAT, {"messages": [{"role": "system", "content": "x", "tools": [STRICT]}]}, "tools"),
        (Endpoint.GENERATE, {"json_schema": "{}"}, "json_schema"),
        (Endpoint.GENERATE, {"structural_tag": "{}"}, "structural_tag"),
    ],
)
def test_least_tokens_with_a_grammar_are_refused(endpoint: Endpoint, fields: dict[str, Any], grammar: str) -> None:
    allowed = ("regex", "ebnf", "structural_tag")
    if endpoint is Endpoint.GENERATE:
        least, of = "sampling_params.min_new_tokens", {"sampling_params": fields | {"min_new_tokens": 1}}
        none = {"sampling_params": fields | {"min_new_tokens": 0}}
    else:
        least, of, none = "min_tokens", fields | {"min_tokens": 1}, fields | {"min_tokens": 0}
    error = refused(endpoint, allowed=allowed, **of)
    assert (error.status, error.param) == (400, least)
    assert f"`{grammar}`" in error.message
    assert read(endpoint, allowed=allowed, **none)


def test_least_tokens_without_a_grammar_are_passed_on() -> None:
    fields = {"min_tokens": 1, "tools": [CALL], "response_format": {"type": "text"}}
    assert read(Endpoint.CHAT, **fields).body["min_tokens"] == 1


@pytest.mark.parametrize("schema", [True, 5, "x", []])
def test_schema_of_a_required_call_that_is_no_object_is_refused(schema: object) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    assert refused(Endpoint.CHAT, tools=tools, tool_choice="required").param == "tools"
    assert read(Endpoint.CHAT, tools=tools)


@pytest.mark.parametrize(
    "body",
    [
        {"response_format": response_format({"properties": {"pattern": {"type": "string"}}})},
        {"response_format": {"type": "json_object"}},
        {"response_format": response_format({"type": "array", "items": {"$ref": "#"}})},
        {
            "response_format": response_format(
                {"$defs": {"a": {"properties": {"next": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}}}}}
            )
        },
        {
            "response_format": response_format(
                {"properties": {f"p{i}": {"anyOf": [{"type": "string"}, {"type": "null"}]} for i in range(300)}}
            )
        },
        # no answer repeats a description
        {"response_format": response_format({"description": "x" * 100_000})},
        # no grammar is made of these: the model is free to call them
        {"tools": [{"function": {"name": "x", "parameters": PATTERN}}]},
        {"tools": [{"function": {"name": "x", "parameters": PATTERN, "strict": False}}], "tool_choice": "auto"},
    ],
)
def test_schema_of_an_honest_client_passes(body: dict[str, Any]) -> None:
    assert body.items() <= dict(read(Endpoint.CHAT, **body).body).items()


@pytest.mark.parametrize("depth", [60, 253, 254, 255, 260, 1000, 1030])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_json_is_nested_to_254_levels_and_no_deeper(depth: int, opening: str) -> None:
    close = "]" if opening == "[" else "}"
    value = opening * (depth - 2) + "1" + close * (depth - 2)
    raw = b'{"messages": [{"role": "user", "content": "x"}], "chat_template_kwargs": {"x": %s}}' % value.encode()
    if depth > 254:
        with pytest.raises(RequestError) as e:
            parse_request(Endpoint.CHAT, raw, header_task="math", tasks=TASKS)
        assert e.value.code == "invalid_json"
    else:
        request = parse_request(Endpoint.CHAT, raw, header_task="math", tasks=TASKS)
        assert make_pair_requests(request, split_request(request), [Cost(1, 1)], worker_model="math")


@pytest.mark.parametrize(
    "arguments",
    [
        {"tokenize": False},
        {"add_generation_prompt": True},
        {"chat_template": "x"},
        {"spaces_between_special_tokens": 7},
    ],
)
def test_template_arguments_that_are_no_variables_are_refused(arguments: dict[str, Any]) -> None:
    assert refused(Endpoint.CHAT, chat_template_kwargs=arguments).param == "chat_template_kwargs"


@pytest.mark.parametrize("kind", ["image_url", "video_url", "audio_url", "input_audio", "file", None])
def test_part_of_a_message_that_holds_media_is_refused(kind: str | None) -> None:
    content = [{"type": "text", "text": "x"}, {"type": kind, "image_url": {"url": "http://127.0.0.1:30000/x"}}]
    assert refused(Endpoint.CHAT, messages=[{"role": "user", "content": content}]).param == "messages"
    assert read(Endpoint.CHAT, messages=[{"role": "user", "content": content[:1]}])


@pytest.mark.parametrize(
    "body",
    [
        {"text": ""},
        {"text": []},
        {"text": ["a", ""]},
        {"text": ["a", 1]},
        {"text": None, "input_ids": []},
        {"text": None, "input_ids": [[]]},
        {"text": None, "input_ids": [1, "a"]},
        {"text": None, "input_ids": [True]},
        {"text": None, "input_ids": [1 << 31]},
        {"text": None, "input_ids": [1.0]},
        {"text": None},
        {"input_ids": [1]},
        {"text": None, "input_embeds": [[0.1]]},
        {"sampling_params": 3},
        {"sampling_params": [{}]},
        {"text": ["a", "b"], "sampling_params": [{"n": 1}, {"n": 2}]},
        {"text": ["a", "b"], "return_logprob": [True]},
        {"text": ["a", "b"], "token_ids_logprob": [[1]]},
        {"text": ["a"], "image_data": "x"},
        {"image_data": "file:///etc/passwd"},
        {"mm_hashes": ["ff"]},
        {"background": True},
        {"top_logprobs_num": [1]},
        {"return_logprob": "yes"},
        {"token_ids_logprob": [[1]]},
        {"text": ["a", "b"], "return_logprob": []},
        {"rid": "x" * 257},
        {"text": ["a", "b"], "rid": ["x", None]},
        {"extra_key": "x" * 1025},
        {"text": "a", "rid": ["x"]},
        {"text": ["a", "b"], "rid": ["x", "x"]},
        {"text": ["a", "b"], "rid": ["x"]},
        {"rid": 3},
        {"extra_key": 3},
        {"top_logprobs_num": 129},
        {"top_logprobs_num": -1},
        {"top_logprobs_num": True},
        {"text": ["a", "b"], "top_logprobs_num": [1, 129]},
        {"logprob_start_len": -2},
        {"return_hidden_states": []},
        {"stream": 1},
        {"text": ["a"] * 64, "sampling_params": {"n": 65}},
    ],
)
def test_what_generate_refuses(body: dict[str, Any]) -> None:
    refused(Endpoint.GENERATE, **body)


@pytest.mark.parametrize("endpoint", list(Endpoint))
@pytest.mark.parametrize("asks", [{}, {"enabled": True}, {"enabled": 0}, {"enabled": False, "key": "ff"}, True, "x"])
def test_watermark_that_no_worker_can_make_is_refused(endpoint: Endpoint, asks: Any) -> None:
    error = refused(endpoint, watermark=asks)
    assert error.param == "watermark"
    assert "no watermark with separate prefill and decode workers" in error.message


NO_STATES = [
    *((endpoint, "return_hidden_states") for endpoint in Endpoint),
    *((endpoint, "return_routed_experts") for endpoint in Endpoint),
    (Endpoint.GENERATE, "return_indexer_topk"),
]


@pytest.mark.parametrize(("endpoint", "name"), NO_STATES)
def test_states_of_each_token_that_the_decode_worker_lacks_are_refused(endpoint: Endpoint, name: str) -> None:
    error = refused(endpoint, **{name: True})
    assert error.param == name
    assert "the prompt and the first token, which another worker computes" in error.message
    assert read(endpoint, **{name: False}).body[name] is False


@pytest.mark.parametrize("endpoint", list(Endpoint))
def test_last_hidden_state_is_passed_on(endpoint: Endpoint) -> None:
    assert read(endpoint, return_hidden_states="last").body["return_hidden_states"] == "last"


@pytest.mark.parametrize("endpoint", list(Endpoint))
def test_watermark_that_is_declined_is_passed_on(endpoint: Endpoint) -> None:
    declined = {"enabled": False, "key": None}
    assert read(endpoint, watermark=declined).body["watermark"] == declined


@pytest.mark.parametrize(
    "params",
    [
        {"n": 0},
        {"n": 129},
        {"n": True},
        {"stop": 5},
        {"stop": ["a", 5]},
        {"stop": ["a"] * 33},
        {"stop_token_ids": ["a"]},
        {"stop_token_ids": [-1]},
        {"stop_regex": "("},
        {"stop": "a" * 1025},
        {"beam_width": 2},
        {"watermark": {"enabled": True}},
        {"stream_interval": 0},
        {"temperature": 1e300},
        {"repetition_penalty": 1e-300},
        {"logit_bias": {"1": 1e39}},
        {"logit_bias": {"x": 1}},
        {"top_k": 1 << 62},
        {"top_k": (1 << 64) - 1},
        {"max_new_tokens": 1.5},
        {"temperature": "hot"},
        {"temperature": True},
        {"is_normalized": True},
        {"stop_strs": ["a"]},
        {"unknown": None},
        {"regex": 3},
        {"logit_bias": {"1": "x"}},
        {"custom_params": {"__req__": 1}},
        {"custom_params": {"a": 1}},
        {"sampling_seed": 1 << 63},
    ],
)
def test_sampling_params_that_sglang_would_choke_on(params: dict[str, Any]) -> None:
    (name,) = params
    assert (
        refused(Endpoint.GENERATE, sampling_params=params).message.startswith(f"`sampling_params.{name}`")
        or name == "n"
    )


@pytest.mark.parametrize(
    "params",
    [
        {"max_new_tokens": None},
        {"temperature": 0, "top_p": 1, "top_k": -1, "stop": "a", "stop_token_ids": [0]},
        {"stop": ["a"], "logit_bias": {"1": -100}, "ignore_eos": True},
        {"json_schema": "{}", "sampling_seed": -(1 << 63)},
    ],
)
def test_sampling_params_that_pass(params: dict[str, Any]) -> None:
    assert read(Endpoint.GENERATE, sampling_params=params).body["sampling_params"] == params


@pytest.mark.parametrize("endpoint", [Endpoint.COMPLETIONS, Endpoint.CHAT])
@pytest.mark.parametrize(
    "body",
    [
        {"n": 0},
        {"n": "two"},
        {"max_tokens": 1.5},
        {"max_tokens": "5.5"},
        {"temperature": []},
        {"stop": {}},
        {"response_format": "json"},
        {"custom_params": {"x": 1}},
        {"stream_options": {"include_usage": "maybe"}},
        {"top_k": 1 << 31},
        {"model": ["a"]},
    ],
)
def test_what_the_openai_endpoints_refuse(endpoint: Endpoint, body: dict[str, Any]) -> None:
    if "model" in body:
        with pytest.raises(RequestError):
            parse_request(endpoint, orjson.dumps({**MINIMAL[endpoint], **body}), header_task=None, tasks=TASKS)
    else:
        refused(endpoint, **body)


@pytest.mark.parametrize("prompt", ["", [], [""], [[]], [[1], "a"], ["a", [1]], 3, None, [1.5], [[1], []], {}])
def test_prompts_that_are_none(prompt: Any) -> None:
    refused(Endpoint.COMPLETIONS, prompt=prompt)


@pytest.mark.parametrize("prompts", [["", "x"], ["a", "x", ""], ["a", 1], ["a", None], [1, "a"], [["a"], "b"]])
def test_list_of_prompts_with_another_item_names_its_place(prompts: list[Any]) -> None:
    place = next(i for i, prompt in enumerate(prompts) if not isinstance(prompt, str) or not prompt)
    for endpoint, name in ((Endpoint.COMPLETIONS, "prompt"), (Endpoint.GENERATE, "text")):
        body = orjson.dumps({"model": "m", name: prompts})
        with pytest.raises(RequestError, match=rf"`{name}\[{place}\]` must be a string that is not empty"):
            parse_request(endpoint, body, header_task=None, tasks=["m"])


@pytest.mark.parametrize("messages", [None, [], "x", ["x"], [None], {}])
def test_messages_that_are_none(messages: Any) -> None:
    refused(Endpoint.CHAT, messages=messages)


# --- split and merge --------------------------------------------------------------------------------------------------


def answer(endpoint: Endpoint, body: dict[str, Any], seed: int) -> dict[str, Any]:
    """Return a server's answer to a single request: its text depends on the prompt and on chance."""
    prompt = body.get("prompt") or body.get("input_ids") or body.get("text") or "chat"
    size, made = len(prompt), 1 + seed % 3
    usage = {"prompt_tokens": size, "completion_tokens": made, "total_tokens": size + made, "reasoning_tokens": seed}
    text = f"{prompt}/{seed}"
    if endpoint is Endpoint.GENERATE:
        return {"text": text, "meta_info": {"id": str(seed), **usage}}
    return {"id": str(seed), "choices": [{"index": 0, "text": text, "finish_reason": "stop"}], "usage": usage}


TEXTS = st.text(min_size=1, max_size=5)
IDS = st.lists(st.integers(0, 99), min_size=1, max_size=5)
PROMPTS = TEXTS | IDS | st.lists(TEXTS, min_size=1, max_size=4) | st.lists(IDS, min_size=1, max_size=4)


@given(PROMPTS, st.integers(1, 4))
def test_completions_split_and_merge(prompt: Any, n: int) -> None:
    request = read(Endpoint.COMPLETIONS, prompt=prompt, n=n)
    singles = split_request(request)
    prompts = prompt if isinstance(prompt, list) and not isinstance(prompt[0], int) else [prompt]
    assert [s.body["prompt"] for s in singles] == [p for p in prompts for _ in range(n)]
    assert [s.answer_index for s in singles] == list(range(len(prompts) * n))
    replies = [answer(Endpoint.COMPLETIONS, dict(s.body), seed) for seed, s in enumerate(singles)]
    merged = merge_replies(request, replies)
    assert [c["index"] for c in merged["choices"]] == list(range(len(singles)))
    assert [c["text"] for c in merged["choices"]] == [f"{s.body['prompt']}/{i}" for i, s in enumerate(singles)]
    assert merged["usage"]["prompt_tokens"] == sum(map(len, prompts))
    assert merged["usage"]["completion_tokens"] == sum(1 + i % 3 for i in range(len(singles)))
    assert merged["usage"]["total_tokens"] == merged["usage"]["prompt_tokens"] + merged["usage"]["completion_tokens"]
    assert merged["usage"]["reasoning_tokens"] == sum(range(len(singles)))


@given(PROMPTS, st.integers(1, 3))
def test_generate_splits_and_merges(prompt: Any, n: int) -> None:
    many = isinstance(prompt, list) and not isinstance(prompt[0], int)
    name = "text" if isinstance(prompt, str) or (many and isinstance(prompt[0], str)) else "input_ids"
    request = read(Endpoint.GENERATE, **{"text": None, name: prompt}, sampling_params={"n": n, "temperature": 0})
    singles = split_request(request)
    prompts = prompt if many else [prompt]
    assert [s.body[name] for s in singles] == [p for p in prompts for _ in range(n)]
    assert all(s.body["sampling_params"] == {"temperature": 0} for s in singles)
    replies = [answer(Endpoint.GENERATE, dict(s.body), seed) for seed, s in enumerate(singles)]
    merged = merge_replies(request, replies)
    assert merged == (replies if many or n > 1 else replies[0])
    assert has_several_answers(request) == isinstance(merged, list)


def test_fields_of_each_prompt_go_with_it() -> None:
    body = {
        "text": ["a", "b"],
        "sampling_params": [{"temperature": 0}, {"temperature": 1}],
        "return_logprob": [True, False],
        "logprob_start_len": [0, -1],
        "top_logprobs_num": [1, 2],
        "token_ids_logprob": [[1], [2]],
        "watermark": [None, {"enabled": False}],
        "extra_key": ["x", "y"],
        "rid": ["r", "s"],
        "return_entropy": True,
    }
    first, second = split_request(read(Endpoint.GENERATE, **body))
    assert (first.rid, second.rid, first.extra_key, second.extra_key) == ("r", "s", "x", "y")
    assert dict(second.body) == {
        "text": "b",
        "sampling_params": {"temperature": 1},
        "return_logprob": False,
        "logprob_start_len": -1,
        "top_logprobs_num": 2,
        "token_ids_logprob": [2],
        "watermark": {"enabled": False},
        "return_entropy": True,
    }


def test_one_rid_for_several_is_numbered_as_sglang_does() -> None:
    assert [s.rid for s in split_request(read(Endpoint.GENERATE, text=["a", "b"], rid="x"))] == ["x_0", "x_1"]
    assert [s.rid for s in split_request(read(Endpoint.COMPLETIONS, n=2, rid="x"))] == ["x_0", "x_1"]
    assert [s.rid for s in split_request(read(Endpoint.COMPLETIONS, rid="x"))] == ["x"]


def test_usage_of_choices_counts_a_prompt_once() -> None:
    usage = {
        "prompt_tokens": 5,
        "completion_tokens": 2,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    merged = merge_usage([usage] * 6, 3)
    assert merged == {
        "prompt_tokens": 10,
        "completion_tokens": 12,
        "total_tokens": 22,
        "prompt_tokens_details": {"cached_tokens": 8},
    }
    assert merge_usage([usage, None], 2) is None


def test_usage_details_of_choices_are_summed_per_prompt_and_per_answer() -> None:
    def usage(cached: object, reasoning: object) -> dict[str, Any]:
        counts = {"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14}
        return {**counts, "prompt_tokens_details": cached, "completion_tokens_details": reasoning}

    first, second = usage({"cached_tokens": 4, "audio_tokens": 1}, None), usage({"cached_tokens": 0}, None)
    thought = usage({"cached_tokens": 2}, {"reasoning_tokens": 3})
    merged = merge_usage([first, thought, second, thought], 2)
    assert merged is not None
    assert merged["prompt_tokens_details"] == {"cached_tokens": 4, "audio_tokens": 1}, "each prompt once"
    assert merged["completion_tokens_details"] == {"reasoning_tokens": 6}, "every answer"


@pytest.mark.parametrize("cached", [None, {"cached_tokens": 0}])
def test_usage_details_that_count_nothing_keep_the_shape_that_the_workers_give_them(cached: object) -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 9, "prompt_tokens_details": cached}
    merged = merge_usage([usage, usage], 2)
    assert merged is not None
    assert merged["prompt_tokens_details"] == cached
    assert "completion_tokens_details" not in merged
    merged = merge_usage([usage | {"completion_tokens_details": None}] * 2, 2)
    assert merged is not None
    assert merged["completion_tokens_details"] is None


def test_chunks_get_the_index_of_their_answer() -> None:
    assert reindex(Endpoint.GENERATE, {"text": "a"}, 3) == {"text": "a", "index": 3}
    assert reindex(Endpoint.CHAT, {"choices": [{"index": 0, "delta": {}}]}, 3)["choices"] == [{"index": 3, "delta": {}}]


def test_input_logprobs_replace_what_decode_has_not() -> None:
    decode = {
        "text": "x",
        "meta_info": {"input_token_logprobs": [], "output_token_logprobs": [1], "input_top_logprobs": []},
    }
    prefill = {
        "meta_info": {"input_token_logprobs": [[0, 1, None]], "output_token_logprobs": [9], "input_top_logprobs": [2]}
    }
    merged = PrefillLogprobs(Endpoint.GENERATE, orjson.dumps(prefill)).add_to(decode)
    assert merged["meta_info"] == {
        "input_token_logprobs": [[0, 1, None]],
        "output_token_logprobs": [1],
        "input_top_logprobs": [2],
    }


@pytest.mark.parametrize("rows", [[[["own"]], [["own"]]], [], None], ids=["later-tokens", "no-token", "none"])
def test_row_of_chosen_ids_is_not_put_where_no_first_row_is_empty(rows: Any) -> None:
    """With SGLang's `incremental_streaming_output` an event begins after the first token."""
    reply = {"meta_info": {"output_token_ids_logprobs": [[["prefill"]]]}}
    logprobs = PrefillLogprobs(Endpoint.GENERATE, orjson.dumps(reply))
    event_ = {"meta_info": {"output_token_ids_logprobs": rows}}
    assert logprobs.add_row_to(event_) is event_
    assert logprobs.add_to({"meta_info": {"output_token_ids_logprobs": [None, 1]}})["meta_info"] == {
        "output_token_ids_logprobs": [[["prefill"]], 1]
    }


# --- streams ----------------------------------------------------------------------------------------------------------

TEXT_CHUNKS = st.lists(
    st.builds(lambda t: event({"id": "x", "choices": [{"index": 0, "text": t}], "usage": None}), st.text(max_size=8)),
    min_size=1,
    max_size=6,
)
USAGE = event({"id": "x", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}})
END = b"data: [DONE]\n\n"


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({c % (len(data) + 1) for c in cuts} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(at)]


@given(TEXT_CHUNKS, st.booleans(), st.lists(st.integers(0, 10_000), max_size=8))
def test_a_stream_passes_as_it_came_however_it_is_cut(chunks: list[bytes], strip: bool, cuts: list[int]) -> None:
    watch = StreamFilter(strip_usage=strip)
    sent = b"".join(watch.feed(piece) for piece in pieces(b"".join(chunks) + USAGE + END, cuts))
    assert sent == b"".join(chunks) + (b"" if strip else USAGE) + END
    assert watch.done
    assert watch.usage == {"prompt_tokens": 1, "completion_tokens": 2}


@given(TEXT_CHUNKS, st.lists(st.integers(0, 10_000), max_size=8))
def test_nothing_passes_after_an_error(chunks: list[bytes], cuts: list[int]) -> None:
    watch = StreamFilter()
    data = b"".join(chunks) + event({"error": {"message": "m"}}) + END
    sent = b"".join(watch.feed(piece) for piece in pieces(data, cuts))
    assert sent == b"".join(chunks)
    assert watch.error == b'{"error":{"message":"m"}}'
    assert not watch.done


@pytest.mark.parametrize(
    "chunk",
    [{"choices": [{"finish_reason": "abort"}]}, {"meta_info": {"finish_reason": {"type": "abort", "message": "m"}}}],
)
def test_an_abort_is_held_back(chunk: dict[str, Any]) -> None:
    watch = StreamFilter()
    assert watch.feed(event(chunk) + END) == b""
    assert watch.aborted == orjson.dumps(chunk)


MARKERS = [
    "data: ",
    "data: [DONE]",
    "data: [DONE]\n\n",
    "[DONE]",
    'data: {"error"',
    '"error"',
    "error",
    '"abort"',
    "abort",
]


@pytest.mark.parametrize("text", [*MARKERS, '"choices":[]', 'data: {"error":{}}\r\n\r\n', "\n\n"])
def test_a_model_cannot_write_a_marker(text: str) -> None:
    watch = StreamFilter(strip_usage=True)
    chunk = event({"choices": [{"text": text, "finish_reason": "stop"}], "usage": None})
    assert watch.feed(chunk) == chunk
    assert not watch.ended
    assert watch.feed(chunk[:20]) + watch.feed(chunk[20:]) == chunk
    assert not watch.ended


@pytest.mark.parametrize("text", MARKERS)
@pytest.mark.parametrize("end", [{"type": "length"}, {"type": "abort"}])
def test_the_end_of_an_answer_is_seen_whatever_its_text(text: str, end: dict[str, str]) -> None:
    """An aborted answer is held back, and the tokens of any other are counted."""
    for cut in (0, 20):
        watch = StreamFilter()
        whole = {"text": text, "meta_info": {"finish_reason": end, "completion_tokens": 7}}
        sent = watch.feed(event(whole)[:cut]) + watch.feed(event(whole)[cut:])
        assert watch.aborted == (orjson.dumps(whole) if end["type"] == "abort" else None)
        assert sent == (b"" if watch.aborted else event(whole))
        if not watch.aborted:
            assert watch.tokens().completion == 7


@given(st.lists(st.binary(min_size=1, max_size=6).filter(lambda b: b"\n" not in b), max_size=6), st.integers(1, 7))
def test_framing(events: list[bytes], size: int) -> None:
    data = b"".join(e + b"\n\n" for e in events)
    framer = EventFramer()
    got = [e for i in range(0, len(data), size) for e in framer.feed(data[i : i + size])]
    assert got == [e + b"\n\n" for e in events]
    assert not framer.rest


@given(
    st.lists(st.text(min_size=1, max_size=6).map(lambda t: orjson.dumps({"text": t})), max_size=4),
    st.lists(st.sampled_from([b"\n", b"\r\n", b"\r"]), min_size=1, max_size=4),
    st.integers(1, 7),
)
def test_events_are_read_line_by_line_whatever_ends_a_line(datas: list[bytes], ends: list[bytes], size: int) -> None:
    sent = b"".join(
        b"".join(line + ends[i % len(ends)] for line in (b": data: ping", b"id: 3", b"data:" + data, b"data: 4", b""))
        for i, data in enumerate(datas)
    )
    framer = EventFramer()
    # a CR may be the first half of a CRLF: the next byte decides
    got = [e for i in range(0, len(sent), size) for e in framer.feed(sent[i : i + size])]
    assert [d for d in map(event_data, got) if d] == [data + b"\n4" for data in datas]


def test_an_event_without_an_end_is_refused_and_not_kept() -> None:
    framer = EventFramer(most=100)
    assert list(framer.feed(b"data: " + b"x" * 90)) == []
    with pytest.raises(BadReplyError, match="over 100 bytes"):
        list(framer.feed(b"x" * 90))


@pytest.mark.parametrize(
    "data", [b"no json", b"[]", b'"x"', b'{"choices":[], "error"', b'{"choices":"abort"}', b'{"meta_info":"abort"}']
)
def test_data_that_is_no_result_ends_the_stream_after_what_came_before(data: bytes) -> None:
    watch = StreamFilter()
    good = event({"text": "a"})
    assert watch.feed(good + b"data: " + data + b'\ndata:{"error":1}\n\n' + good) == good
    assert "decode worker" in str(watch.bad)
    assert watch.ended
