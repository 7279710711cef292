"""The replies that differ between versions of SGLang: one line a difference, one column a version.

The expected values were read from real workers of 0.5.21 and 0.5.23, and from the source of 0.5.22.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from sun_sglang.cli.schema import topology_schema
from sun_sglang.emulator.protocol.reply_shapes import SHAPES
from sun_sglang.emulator.settings import emulation_flags, parse_settings
from sun_sglang.emulator.worker import EmulatedWorker
from sun_sglang.errors import TopologyError
from sun_sglang.launch.planning.hardware.machine import Machine
from sun_sglang.launch.planning.preflight import preflight
from sun_sglang.sglang_versions import NEWEST_VERSION, SUPPORTED_VERSIONS, SglangVersion
from sun_sglang.topology import Emulation
from sun_sglang.topology_file import parse_topology
from tests.support.emulator import Start, flags, legs, url

Write = Callable[..., Path]
BROKEN_OFF = "broken off"
PROMPT = [3, 1, 4, 1, 5]
USAGE = {"prompt_tokens": 5, "total_tokens": 8, "completion_tokens": 3, "reasoning_tokens": 0}
NONE: dict[SglangVersion, dict[str, Any]] = {
    "0.5.21": {"prompt_tokens_details": None},
    "0.5.22": {"prompt_tokens_details": {"cached_tokens": 0}},
    "0.5.23": {"prompt_tokens_details": {"cached_tokens": 0}, "completion_tokens_details": None},
}
FILE = """
pools:
  base: {role: decode, model: none/base}
  math: {role: prefill, model: none/math}
tasks:
  math: {prefill: math, decode: base}
backend: emulated
emulated: {sglang: "0.5.21"}
"""


class Reply(NamedTuple):
    """The reply of a decode worker."""

    status: int
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text)

    @property
    def events(self) -> list[Any]:
        """The events of a stream, without its end."""
        events = self.text.removesuffix("\n\n").split("\n\n")
        return [json.loads(event.removeprefix("data: ")) for event in events[:-1]]


class Pair:
    """An emulated prefill and an emulated decode worker of one version of SGLang."""

    def __init__(self, client: aiohttp.ClientSession, start: Start) -> None:
        self._client = client
        self._start = start

    async def start(self, version: str) -> Pair:
        self._prefill = await self._start("prefill", "a", sglang=version)
        self._decode = await self._start("decode", "base", sglang=version)
        return self

    async def ask(self, path: str, **fields: Any) -> Reply:
        """Send both legs of a request; return the reply to the decode leg."""
        body = {**legs(self._prefill, PROMPT, 3), **fields}
        _, reply = await asyncio.gather(self._post(self._prefill, path, body), self._post(self._decode, path, body))
        return reply

    async def get(self, path: str) -> Any:
        async with self._client.get(url(self._decode) + path) as reply:
            return await reply.json()

    async def _post(self, worker: Any, path: str, body: dict[str, Any]) -> Reply:
        async with self._client.post(url(worker) + path, json=body) as reply:
            try:
                return Reply(reply.status, await reply.text())
            except aiohttp.ClientPayloadError:
                return Reply(reply.status, BROKEN_OFF)


@pytest.fixture
def pair(start: Start, client: aiohttp.ClientSession) -> Pair:
    return Pair(client, start)


def test_table_has_an_entry_for_each_version_that_the_product_runs_on() -> None:
    assert tuple(SHAPES) == SUPPORTED_VERSIONS
    assert SUPPORTED_VERSIONS[-1] == NEWEST_VERSION


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
async def test_worker_that_emulates_a_version_names_it(pair: Pair, version: SglangVersion) -> None:
    await pair.start(version)
    for path in ("/v1/loads", "/server_info"):
        assert (await pair.get(path))["version"] == version
    assert (await pair.get("/sun/worker"))["identity"]["sglang"] == version


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
def test_identity_of_an_emulated_checkpoint_has_the_version_that_is_emulated(
    write_checkpoint: Write, version: SglangVersion
) -> None:
    base, math = write_checkpoint("base"), write_checkpoint("math")
    text = FILE.replace("none/base", str(base)).replace("none/math", str(math)).replace("0.5.21", version)
    found = preflight(parse_topology(text, base=base), Machine(cores=2, memory=1 << 34), None)
    card = EmulatedWorker(parse_settings(flags("prefill", str(math), sglang=version))).card
    for identity in (*(pool.identity for pool in found.pools.values()), card.identity):
        assert identity is not None
        assert identity.sglang == version


@pytest.mark.parametrize(
    ("version", "params", "status", "body"),
    [
        ("0.5.21", {"temperature": "warm"}, 500, "Internal Server Error"),
        ("0.5.22", {"temperature": "warm"}, 400, {"error": 'invalid type: string "warm", expected f64'}),
        ("0.5.23", {"temperature": "warm"}, 400, {"error": 'invalid type: string "warm", expected f64'}),
        ("0.5.21", {"stop": 3}, 500, "Internal Server Error"),
        ("0.5.21", {"foo": 1}, 500, "Internal Server Error"),
        ("0.5.22", {"foo": 1}, 400, {"error": "unknown field `foo`, expected one of ...`watermark`"}),
        ("0.5.23", {"foo": 1}, 400, {"error": "unknown field `foo`, expected one of ...`choice`"}),
        ("0.5.21", {"watermark": None}, 500, "Internal Server Error"),
        ("0.5.22", {"watermark": None}, 200, None),
        ("0.5.23", {"watermark": None}, 200, None),
        ("0.5.22", {"choice": ["a"]}, 400, {"error": "unknown field `choice`, expected one of ...`watermark`"}),
        ("0.5.23", {"choice": ["a"]}, 500, "Internal Server Error"),
    ],
)
async def test_sampling_parameter_that_is_wrong_or_new_is_answered_as_by_its_version(
    pair: Pair, version: SglangVersion, params: dict[str, Any], status: int, body: Any
) -> None:
    await pair.start(version)
    reply = await pair.ask("/generate", sampling_params={"max_new_tokens": 3, **params})
    assert reply.status == status
    match body:
        case {"error": message}:
            start, _, end = message.partition("...")
            assert reply.body.keys() == {"error"}
            assert reply.body["error"].startswith(start)
            assert reply.body["error"].endswith(end)
        case str():
            assert reply.text == body


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
async def test_unknown_sampling_parameter_of_a_stream_is_answered_as_by_its_version(
    pair: Pair, version: SglangVersion
) -> None:
    await pair.start(version)
    reply = await pair.ask("/generate", sampling_params={"foo": 1}, stream=True)
    if version == "0.5.21":
        assert reply == (200, BROKEN_OFF), "the stream has begun before SGLang looks at its parameters"
    else:
        assert reply.status == 400


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"top_k": 1.5}, "invalid type: floating point `1.5`, expected i64"),
        ({"n": True}, "invalid type: boolean `true`, expected i64"),
        ({"ignore_eos": 1}, "invalid type: integer `1`, expected a boolean"),
        ({"regex": {}}, "invalid type: map, expected a string"),
        ({"stop": 3}, "invalid type: integer `3`, expected a value or an array of values for StringOrList"),
        ({"stop": ["a", None]}, "invalid type: null, expected a string"),
        ({"stop_token_ids": ["a"]}, 'invalid type: string "a", expected i64'),
        ({"stop_token_ids": 3}, "invalid type: integer `3`, expected a sequence"),
        ({"watermark": 3}, "invalid type: integer `3`, expected struct WatermarkRequestConfig"),
        ({"logit_bias": [1]}, "invalid type: sequence, expected a map"),
        ({"logit_bias": {"1": "a"}}, 'invalid type: string "a", expected f64'),
    ],
)
async def test_sampling_parameter_of_a_wrong_type_is_refused_in_the_words_of_the_schema(
    pair: Pair, params: dict[str, Any], message: str
) -> None:
    await pair.start("0.5.23")
    reply = await pair.ask("/generate", sampling_params=params)
    assert (reply.status, reply.body) == (400, {"error": message})


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
async def test_usage_that_ends_a_stream_has_what_is_null_in_a_chat_alone(pair: Pair, version: SglangVersion) -> None:
    await pair.start(version)
    asked = {"max_tokens": 3, "stream": True, "stream_options": {"include_usage": True}}
    chat = await pair.ask("/v1/chat/completions", messages=[{"role": "user", "content": "abcdefgh"}], **asked)
    assert chat.events[-1]["usage"].items() >= NONE[version].items()
    text = await pair.ask("/v1/completions", prompt=[2, 7, 1, 8], **asked)
    known = {k: v for k, v in NONE[version].items() if v is not None}
    assert text.events[-1]["usage"] == {**USAGE, "prompt_tokens": 4, "total_tokens": 7, **known}


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
async def test_usage_without_cached_or_reasoning_tokens_is_reported_as_by_its_version(
    pair: Pair, version: SglangVersion
) -> None:
    await pair.start(version)
    asked = {"prompt": PROMPT, "max_tokens": 3}
    assert (await pair.ask("/v1/completions", **asked)).body["usage"] == USAGE | NONE[version]
    cached = NONE[version] | {"prompt_tokens_details": {"cached_tokens": len(PROMPT) - 1}}
    assert (await pair.ask("/v1/completions", **asked)).body["usage"] == USAGE | cached


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
async def test_chat_without_tool_calls_is_answered_as_by_its_version(pair: Pair, version: SglangVersion) -> None:
    await pair.start(version)
    reply = await pair.ask("/v1/chat/completions", messages=[{"role": "user", "content": "a"}])
    message = reply.body["choices"][0]["message"]
    assert message.get("tool_calls", "no key") == (None if version == "0.5.21" else "no key")


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
async def test_log_probabilities_of_ids_have_an_empty_row_for_the_first_token(
    pair: Pair, version: SglangVersion
) -> None:
    await pair.start(version)
    reply = await pair.ask("/generate", return_logprob=True, token_ids_logprob=[5, 6])
    rows = reply.body["meta_info"]["output_token_ids_logprobs"]
    lengths = [row and len(row) for row in rows]
    assert lengths == [None, 2, 2], "the hook `first_ids_row` appends it on older versions"


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
async def test_role_that_is_new_is_answered_as_by_its_version(pair: Pair, version: SglangVersion) -> None:
    await pair.start(version)
    reply = await pair.ask("/v1/chat/completions", messages=[{"role": "root", "content": "a"}])
    assert reply.status == (200 if version == "0.5.23" else 400)


def test_emulation_takes_its_version_from_file_and_flag_and_else_the_newest() -> None:
    assert Emulation().sglang == NEWEST_VERSION
    assert parse_topology(FILE, base=Path()).emulated.sglang == "0.5.21"
    assert emulation_flags(Emulation(sglang="0.5.21")) == {"sim_sglang": "0.5.21"}
    assert parse_settings(flags("decode", "base", sglang="0.5.21")).emulation.sglang == "0.5.21"


def test_version_without_shapes_is_refused_with_the_versions_known() -> None:
    known = r"'0\.5\.21', '0\.5\.22' or '0\.5\.23' \(got '0\.5\.20'\)"
    with pytest.raises(TopologyError, match=known) as caught:
        parse_topology(FILE.replace("0.5.21", "0.5.20"), base=Path())
    assert caught.value.where == "emulated.sglang"
    with pytest.raises(TopologyError, match=known) as caught:
        parse_settings(flags("decode", "base", sglang="0.5.20"))
    assert caught.value.where == "--sim-sglang"


def test_task_whose_pools_emulate_different_versions_is_refused_with_both() -> None:
    text = FILE.replace("model: none/math", "model: none/math, emulated: {sglang: 0.5.23}")
    with pytest.raises(TopologyError, match=r"'math': '0\.5\.23', 'base': '0\.5\.21'") as caught:
        preflight(parse_topology(text, base=Path()), Machine(cores=2, memory=1 << 34), None)
    assert caught.value.where == "tasks.math"


def test_schema_of_the_topology_file_lists_the_versions() -> None:
    field = topology_schema()["$defs"]["Emulation"]["properties"]["sglang"]
    assert field["enum"] == list(SUPPORTED_VERSIONS)
    assert field["default"] == NEWEST_VERSION
