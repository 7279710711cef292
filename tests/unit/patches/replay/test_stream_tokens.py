"""Reading the mark of a replay and reporting the tokens of a stream, on stand-ins for SGLang's objects."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from sun_sglang.contracts.replay import mark_replay
from sun_sglang.patches.replay.stream_tokens import TOKENS_KEY, TokenReports, read_tokens

VOCAB = 100


def manager(*, incremental: bool = False, speculative: str | None = None) -> Any:
    return SimpleNamespace(
        incremental_streaming_output=incremental,
        model_config=SimpleNamespace(vocab_size=VOCAB),
        server_args=SimpleNamespace(speculative_algorithm=speculative),
    )


def request(extra_key: Any, **fields: Any) -> Any:
    return SimpleNamespace(**{"extra_key": extra_key, "sampling_params": {"top_k": 1}, "stream": True, **fields})


def generate(_manager: Any, obj: Any, _request: Any = None) -> AsyncIterator[dict[str, Any]]:
    async def results() -> AsyncIterator[dict[str, Any]]:
        for ids in obj.results:
            yield {"output_ids": list(ids)}

    return results()


async def stream(obj: Any, *, incremental: bool = False, events: Sequence[bytes] = (b"data: {}\n\n",)) -> list[bytes]:
    """Serve a request whose endpoint sends all of `events` after each result, and return the bodies."""
    sent: list[bytes] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message["body"])

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        async def respond() -> None:
            async for _ in read_tokens(generate, manager(incremental=incremental), obj):
                for body in events:
                    await send({"type": "http.response.body", "body": body})

        # Starlette sends a stream from a task of its own
        await asyncio.create_task(respond())

    await TokenReports(app)({"type": "http", "path": "/generate"}, None, send)
    return sent


async def test_request_without_the_mark_passes_unchanged() -> None:
    obj = request("pool@1", results=[(1,), (1, 2)])
    assert await stream(obj) == [b"data: {}\n\n"] * 2
    assert obj.extra_key == "pool@1"
    assert obj.sampling_params == {"top_k": 1}


@pytest.mark.parametrize(("incremental", "results"), [(False, [(7, 8), (7, 8), (7, 8, 9)]), (True, [(7, 8), (), (9,)])])
async def test_tokens_stand_before_the_next_event(incremental: bool, results: Any) -> None:
    obj = request(mark_replay("pool@1"), results=results)
    bodies = await stream(obj, incremental=incremental)
    assert bodies == [b": tokens 7,8\ndata: {}\n\n", b"data: {}\n\n", b": tokens 9\ndata: {}\n\n"]
    assert obj.extra_key == "pool@1"
    assert obj.sampling_params == {"top_k": 1}


async def test_tokens_without_an_event_are_reported_with_the_next_one() -> None:
    obj = request(mark_replay("pool@1"), results=[(7,), (7, 8)])
    bodies = await stream(obj, events=[b"", b"data: 1\n\n"])
    assert bodies == [b"", b": tokens 7\ndata: 1\n\n", b"", b": tokens 8\ndata: 1\n\n"]


async def test_answer_that_is_not_streamed_is_not_changed() -> None:
    obj = request(mark_replay("pool@1", [3]), results=[(3, 4)], stream=False)
    assert await stream(obj, events=[b"{}"]) == [b"{}"]


async def test_tokens_to_repeat_travel_with_the_sampling_parameters() -> None:
    obj = request(mark_replay("pool@1", [3, 4]), results=[])
    obj.sampling_params["custom_params"] = {"other": 1}
    await stream(obj)
    assert obj.sampling_params == {"top_k": 1, "custom_params": {"other": 1, TOKENS_KEY: [3, 4]}}
    obj = request(mark_replay("pool@1", array("i", [5])), results=[], sampling_params=None)
    await stream(obj)
    assert obj.sampling_params == {"custom_params": {TOKENS_KEY: [5]}}


@pytest.mark.parametrize(
    ("key", "fields", "speculative", "why"),
    [
        (mark_replay("p", [VOCAB]), {}, None, "not one of the model's 100"),
        (mark_replay("p", [-1]), {}, None, "not one of the model's 100"),
        (mark_replay("p", [1]), {"sampling_params": [{}, {}]}, None, "one prompt"),
        (mark_replay("p", [1]), {}, "EAGLE", "speculative decoding"),
        ("@tokens:A@p", {}, None, "cannot be read"),
    ],
)
def test_tokens_that_cannot_be_repeated_are_refused(
    key: str, fields: dict[str, Any], speculative: str | None, why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        read_tokens(generate, manager(speculative=speculative), request(key, **fields))


async def test_two_streams_at_once_report_their_own_tokens() -> None:
    first, second = (request(mark_replay("p"), results=[(n,), (n, n + 1)]) for n in (10, 20))
    bodies = await asyncio.gather(stream(first), stream(second))
    assert [b"".join(sent) for sent in bodies] == [
        b": tokens 10\ndata: {}\n\n: tokens 11\ndata: {}\n\n",
        b": tokens 20\ndata: {}\n\n: tokens 21\ndata: {}\n\n",
    ]
