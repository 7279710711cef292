"""Every forwarded field, at its bounds, one by one and in combinations: no worker dies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from sun_sglang.bench.polling import wait_until
from sun_sglang.router.protocol.fields import table as field_table
from sun_sglang.router.protocol.fields.schemas import MAX_ALTERNATIVES, MAX_SCHEMA_DEPTH
from sun_sglang.router.protocol.fields.table import Forwarded, RouterOwned, Table
from tests.engine.conftest import TOPOLOGY, Deployment, Reference, gather, generate, some_tokens
from tests.engine.test_faults import a_router
from tests.engine.watch import in_flight, is_whole

COMBINATIONS = 400
AT_ONCE = 8
PATIENCE = 60.0
PATHS: dict[str, tuple[Table, dict[str, Any]]] = {
    "/v1/completions": (field_table.COMPLETIONS, {"prompt": [7, 8, 9], "max_tokens": 3}),
    "/v1/chat/completions": (
        field_table.CHAT,
        {"messages": [{"role": "user", "content": "x"}], "max_tokens": 3},
    ),
    "/generate": (field_table.GENERATE, {"input_ids": [7, 8, 9], "sampling_params": {"max_new_tokens": 3}}),
}
WIDE = {"anyOf": [{"type": "string", "maxLength": i} for i in range(MAX_ALTERNATIVES)]}
DEEP = '{"type":"array","items":' * (MAX_SCHEMA_DEPTH - 1) + "{}" + "}" * (MAX_SCHEMA_DEPTH - 1)
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def response_format(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


ODD = tuple(
    response_format(schema)
    for schema in (
        {},
        {"type": "no"},
        {"type": ["string", 7]},
        {"$ref": "#"},
        {"$ref": "#/none"},
        {"$ref": "http://127.0.0.1:1/x"},
        {"enum": []},
        {"allOf": []},
        {"type": "integer", "minimum": 9, "maximum": -9},
        {"type": "string", "minLength": -1, "maxLength": 1 << 62},
        {"type": "array", "minItems": 1 << 31, "items": False},
        {"type": "string", "format": "nothing"},
        {"properties": 7, "required": "x", "additionalProperties": []},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    )
)
# where the bounds of the kind alone make no valid value
EDGES: dict[str, tuple[Any, ...]] = {
    "json_schema": ("{}", "true", "[]", "7", "$$ANY$$", DEEP, json.dumps(WIDE)),
    "regex": ("a*", "[a-z]{3}", "("),
    "ebnf": ('root ::= "a" root | "b"', "root ::= a", "x"),
    "response_format": (
        {"type": "text"},
        {"type": "json_object"},
        response_format(WIDE),
        response_format(True),
        {},
        *ODD,
    ),
    "tools": (
        [],
        [TOOL],
        [TOOL | {"defer_loading": True}] * 3,
        [{"type": "function", "function": {"name": "", "parameters": 7}}],
        [{"type": "function", "function": {"name": "f" * 5000, "parameters": {"type": 7}}}],
        [{"type": "function", "function": {"name": "f", "strict": True, "parameters": {"$ref": "#"}}}],
        [{"type": "function", "function": {"name": "f", "strict": True, "parameters": {"$ref": "#/none"}}}],
        [{"type": "x", "function": {"name": "f", "strict": True, "parameters": {"type": "varchar", "enum": []}}}],
        [{}],
    ),
    "tool_choice": ("auto", "none", "required", {"function": {"name": "f"}}, {"function": {}}, {}),
    "thinking": ({}, {"type": "adaptive"}, {"type": [], "budget_tokens": -1}),
    "reasoning": ({}, {"effort": "high", "enabled": True}, {"effort": -1}),
    "chat_template_kwargs": (
        {f"x{i}": i for i in range(64)},
        {
            "enable_thinking": {"x": [1]},
            "thinking": "x",
            "reasoning_effort": 7,
            "documents": [1],
        },
    ),
    "prompt": ([0], [260], "x", [[5], [260]], ["a", "b"], "\x00"),
    "text": (),  # instead of `input_ids`
    "input_ids": ([0], [260], [[5], [260]]),
    "messages": (
        [{"role": "user", "content": ""}],
        [{"role": "user", "content": [{"type": "text", "text": "x"}] * 50}],
        [{"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}],
        [{"role": "system", "content": "x", "tools": [TOOL]}, {"role": "tool", "content": "y", "tool_call_id": "z"}],
        [{"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "["}}]}],
        [{"role": "assistant", "content": "x", "tool_calls": [{"function": {"name": None, "arguments": {"a": [[]]}}}]}],
        [{"role": "assistant", "content": "x", "tool_calls": [{"function": {}}], "reasoning_content": ""}],
        [{"role": "assistant", "content": [{"type": "thinking", "thinking": "x"}]}, {"role": "user", "content": "y"}],
        [{"role": "user", "content": [{"type": "text"}]}, {"role": "nobody", "content": 3}],
        [{"role": "tool", "content": [{"type": "text", "text": "x"}], "name": "\x00"}],
        [{"role": "user", "content": [{"type": "tool_reference", "name": "f"}]}],
        [{"role": "assistant", "content": "x"}],
        [{"role": "user", "content": "x"}, {"role": "assistant", "content": "", "prefix": True}],
        [{"role": "root", "content": "x", "tools": [TOOL]}, {"role": "user", "content": "y"}],
        [{}],
    ),
    "sampling_params": (),
    "n": (1, 3),
    "model": (),
}


class Sent(NamedTuple):
    """One request of the fuzz: where it goes, and the fields that differ from a plain one."""

    path: str
    fields: dict[str, Any]


def edges(table: Table, name: str) -> tuple[Any, ...]:
    rule = table[name]
    if not isinstance(rule, Forwarded | RouterOwned):
        return ()
    if isinstance(rule, Forwarded) and rule.permission and rule.permission not in TOPOLOGY["router"]["allow"]:
        return ()
    return EDGES.get(name, rule.type.boundaries)


def one_by_one() -> Iterator[Sent]:
    for path, (table, _) in PATHS.items():
        for name in table:
            yield from (Sent(path, {name: edge}) for edge in edges(table, name))
    for name in field_table.SAMPLING_PARAMS:
        for edge in edges(field_table.SAMPLING_PARAMS, name):
            yield Sent("/generate", {"sampling_params": {"max_new_tokens": 3, name: edge}})


def some(table: Table) -> st.SearchStrategy[dict[str, Any]]:
    """Draw values at their bounds for a few fields of a table."""
    names = [name for name in table if edges(table, name)]
    return st.lists(st.sampled_from(names), min_size=2, max_size=8, unique=True).flatmap(
        lambda chosen: st.fixed_dictionaries({name: st.sampled_from(edges(table, name)) for name in chosen})
    )


def combinations() -> list[Sent]:
    drawn: list[Sent] = []

    @settings(max_examples=COMBINATIONS, derandomize=True, database=None, deadline=None, phases=[Phase.generate])
    @given(st.sampled_from(list(PATHS)), st.data())
    def draw(path: str, data: st.DataObject) -> None:
        fields = data.draw(some(PATHS[path][0]))
        if path == "/generate":
            fields = fields | {"sampling_params": {"max_new_tokens": 3} | data.draw(some(field_table.SAMPLING_PARAMS))}
        drawn.append(Sent(path, fields))

    draw()
    return drawn


@pytest.mark.invariant("I16")
async def test_no_field_at_its_bounds_ends_a_worker(
    client: httpx.AsyncClient, deployment: Deployment, task_references: dict[str, Reference]
) -> None:
    slots = asyncio.Semaphore(AT_ONCE)
    requests = [*one_by_one(), *combinations()]
    before = {p.name: (p.pid, p.restarts) for p in deployment.state.processes}

    async def send(number: int, sent: Sent) -> str:
        task = ("llama-a", "llama-b", "qwen3-a")[number % 3]
        # ids in flight are unique
        own = {"rid": f"{number}{sent.fields['rid']}"[: field_table.MAX_NAME]} if "rid" in sent.fields else {}
        async with slots:
            try:
                reply = await client.post(sent.path, json={"model": task, **PATHS[sent.path][1], **sent.fields, **own})
            except httpx.HTTPError as error:
                return f"{sent}: {error!r}"[:600]
            return "" if reply.status_code in (200, 400) else f"{sent}: {reply.status_code} {reply.text}"[:600]

    wrong = [said for said in await gather(*(send(i, sent) for i, sent in enumerate(requests))) if said]
    assert not wrong, f"{len(wrong)} of {len(requests)}:\n" + "\n".join(wrong)
    assert {p.name: (p.pid, p.restarts) for p in deployment.state.processes} == before
    await wait_until(lambda: is_whole(client, deployment), "every path of every task proven", within=PATIENCE)
    await everyone_answers(client, task_references)


async def everyone_answers(client: httpx.AsyncClient, references: dict[str, Reference]) -> None:
    for number, (task, reference) in enumerate(references.items()):
        prompt = some_tokens(7000 + number, 12)
        reference.check(prompt, (await generate(client, task, prompt, 8))["output_ids"])

    async def idle() -> bool:
        return await in_flight(client) == 0

    await wait_until(idle, "nothing in flight", within=PATIENCE)


HANGS = r"(?s)(.|.)*\x00"


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/completions", {"stop_regex": HANGS, "max_tokens": 60}),
        ("/v1/chat/completions", {"stop_regex": [HANGS], "max_tokens": 60}),
        ("/generate", {"sampling_params": {"stop_regex": HANGS, "max_new_tokens": 60}}),
        ("/generate", {"sampling_params": {"structural_tag": "{}"}}),
        ("/v1/completions", {"priority": 1 << 63}),
        ("/v1/chat/completions", {"priority": 1 << 63}),
        ("/generate", {"priority": 1 << 63}),
        ("/generate", {"priority": 1}),
        ("/generate", {"custom_logit_processor": "x"}),
        ("/generate", {"image_data": "http://127.0.0.1:1/release_memory_occupation"}),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///x"}}]}]},
        ),
    ],
)
async def test_field_that_stops_a_worker_is_refused_and_every_worker_lives(
    client: httpx.AsyncClient,
    deployment: Deployment,
    task_references: dict[str, Reference],
    path: str,
    fields: dict[str, Any],
) -> None:
    before = {p.name: (p.pid, p.restarts) for p in deployment.state.processes}
    reply = await client.post(path, json={"model": "llama-a", **PATHS[path][1], **fields})
    assert reply.status_code == 400, reply.text
    (name,) = fields.keys() - {"max_tokens"}
    assert name in reply.json()["error"]["message"]
    await everyone_answers(client, {"llama-b": task_references["llama-b"]})
    assert {p.name: (p.pid, p.restarts) for p in deployment.state.processes} == before


async def test_stop_regex_that_the_topology_allows_stops_an_answer_and_a_wrong_one_ends_no_worker(
    deployment: Deployment, tmp_path: Path, task_references: dict[str, Reference]
) -> None:
    pools = {"prefill": ["spare-a-0"], "decode": ["uncached-0"]}
    async with a_router(deployment, tmp_path, pools, allow=["stop_regex"]) as router:
        before = {p.name: (p.pid, p.restarts) for p in deployment.state.processes}
        prompt = some_tokens(7100, 12)
        whole = await generate(router, "pair", prompt, 16)
        params = {"temperature": 0, "max_new_tokens": 16, "ignore_eos": True}
        stopped = await router.post(
            "/generate", json={"input_ids": prompt, "sampling_params": {**params, "stop_regex": "(?s)."}}
        )
        assert stopped.status_code == 200, stopped.text
        assert len(stopped.json()["output_ids"]) < len(whole["output_ids"])
        for wrong in ("(", "a" * 257, ["a"] * 33):
            body = {"input_ids": prompt, "sampling_params": {**params, "stop_regex": wrong}}
            reply = await router.post("/generate", json=body)
            assert reply.status_code == 400, reply.text
        task_references["spare"].check(prompt, (await generate(router, "pair", prompt, 16))["output_ids"])
        assert {p.name: (p.pid, p.restarts) for p in deployment.state.processes} == before
