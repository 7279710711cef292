"""A stream that ends anywhere and is repeated in other pieces is, for the client, the unbroken one."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.contracts.replay import tokens_comment
from sun_sglang.router.protocol.replay.answer_stream import AnswerStream
from sun_sglang.router.protocol.replay.channels import ReplayDiffersError
from sun_sglang.router.protocol.request import Endpoint
from tests.unit.router.protocol.replay.made_streams import MadeAnswer, MadeToken, read

FIRST, SECOND, THIRD = ("a" * 32, "b" * 32, "c" * 32)
MOST = 1 << 14

texts = st.text(st.sampled_from('ab "\\\n\t\u0001é漢🙂{}:,'), min_size=0, max_size=4)
tokens = st.builds(
    MadeToken,
    id=st.integers(0, 99),
    text=texts,
    part=st.sampled_from(["content", "content", "reasoning", "arguments"]),
    call=st.integers(0, 1),
)
sizes = st.lists(st.integers(1, 4), max_size=8)


@st.composite
def answers(draw: st.DrawFn) -> MadeAnswer:
    made = tuple(draw(st.lists(tokens, min_size=1, max_size=12)))
    # the name of a call comes once, so its arguments are not interrupted by another part
    order = {"reasoning": 0, "content": 1, "arguments": 2}
    made = tuple(sorted(made, key=lambda t: (order[t.part], t.call)))
    return MadeAnswer(made, logprobs=draw(st.booleans()), counts=draw(st.booleans()))


def in_pieces(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


def fed(stream: AnswerStream, data: bytes, cuts: Sequence[int]) -> bytes:
    return b"".join(stream.feed(piece) for piece in in_pieces(data, cuts))


@pytest.mark.invariant("I25")
@pytest.mark.parametrize("endpoint", list(Endpoint))
@given(data=st.data())
def test_repeated_stream_goes_on_where_the_client_is(endpoint: Endpoint, data: st.DataObject) -> None:
    answer = data.draw(answers())
    runs = [
        answer.stream(endpoint, rid, created, data.draw(sizes))
        for rid, created in ((FIRST, 1), (SECOND, 17), (THIRD, 1))
    ]
    unbroken, cuts = b"".join(runs[0]), st.lists(st.integers(0, 1 << 16), max_size=6)
    stream = AnswerStream(endpoint, FIRST, MOST)
    got = b""
    for run, rid in zip(runs[:-1], (SECOND, THIRD), strict=True):
        whole = b"".join(run)
        least = len(run[0]) if run is runs[0] else 0
        got += fed(stream, whole[: data.draw(st.integers(least, len(whole) - 1))], data.draw(cuts))
        assert stream.fault_now() == ""
        stream.repeat(rid, None)
    got += fed(stream, b"".join(runs[-1]), data.draw(cuts))
    reference = AnswerStream(endpoint, FIRST, MOST)
    assert read(got) == read(reference.feed(unbroken))
    assert list(stream.tokens) == [token.id for token in answer.tokens]
    assert stream.done


@pytest.mark.parametrize("endpoint", list(Endpoint))
@given(answer=answers(), sizes=sizes, cuts=st.lists(st.integers(0, 1 << 16), max_size=6))
def test_unbroken_stream_passes_unchanged_but_for_its_comments(
    endpoint: Endpoint, answer: MadeAnswer, sizes: list[int], cuts: list[int]
) -> None:
    blocks = answer.stream(endpoint, FIRST, 1, sizes)
    stream = AnswerStream(endpoint, FIRST, MOST)
    passed = fed(stream, b"".join(blocks), cuts)
    assert passed == b"".join(block[block.find(b"data: ") :] for block in blocks)
    assert list(stream.tokens) == [token.id for token in answer.tokens]


def made(*parts: str, matched: str | None = None) -> MadeAnswer:
    return MadeAnswer(tuple(MadeToken(i, text) for i, text in enumerate(parts)), matched=matched)


def started(endpoint: Endpoint, answer: MadeAnswer, steps: int, most: int = MOST) -> tuple[AnswerStream, bytes]:
    """Return a stream whose first worker was lost after so many tokens, one event for each."""
    stream = AnswerStream(endpoint, FIRST, most)
    blocks = answer.stream(endpoint, FIRST, 1, [1] * len(answer.tokens))
    return stream, stream.feed(b"".join(blocks[: steps + (endpoint is Endpoint.CHAT)]))


def again(stream: AnswerStream, endpoint: Endpoint, answer: MadeAnswer, sizes: Sequence[int] = ()) -> bytes:
    assert stream.fault_now() == ""
    stream.repeat(SECOND, None)
    return stream.feed(b"".join(answer.stream(endpoint, SECOND, 1, sizes)))


@pytest.mark.parametrize("endpoint", list(Endpoint))
@pytest.mark.parametrize("sizes", [[1, 1, 1], [3], []])
def test_stop_string_that_was_shown_in_part_is_no_difference(endpoint: Endpoint, sizes: list[int]) -> None:
    """SGLang takes a stop string off the last event; where its tokens arrive in one event no part of it is shown."""
    answer = made("one", "EN", "D", matched="END")
    stream, got = started(endpoint, answer, 2)
    reference = AnswerStream(endpoint, FIRST, MOST).feed(b"".join(answer.stream(endpoint, FIRST, 1, [1, 1])))
    whole = read(got + again(stream, endpoint, answer, sizes))
    assert whole == read(reference)


@pytest.mark.invariant("I25")
@pytest.mark.parametrize("endpoint", list(Endpoint))
@pytest.mark.parametrize(
    "other",
    [
        made("x", "b", "c"),
        made("a", "b"),
        MadeAnswer((MadeToken(0, "a"), MadeToken(9, "b"), MadeToken(2, "c"))),
    ],
    ids=["text", "end", "token"],
)
def test_repeated_stream_with_other_content_is_refused(endpoint: Endpoint, other: MadeAnswer) -> None:
    stream, _ = started(endpoint, made("a", "b", "c", "d"), 3)
    with pytest.raises(ReplayDiffersError):
        again(stream, endpoint, other, [1] * 3)


def test_repeated_logprobs_of_other_tokens_are_refused() -> None:
    first = MadeAnswer((MadeToken(0, "ab"), MadeToken(1, "c"), MadeToken(2, "d")), logprobs=True)
    other = MadeAnswer((MadeToken(0, "a"), MadeToken(1, "bc"), MadeToken(2, "d")), logprobs=True)
    stream, _ = started(Endpoint.CHAT, first, 2)
    with pytest.raises(ReplayDiffersError, match="logprobs"):
        again(stream, Endpoint.CHAT, other)


@pytest.mark.parametrize("endpoint", list(Endpoint))
def test_answer_over_the_bound_passes_and_is_not_repeated(endpoint: Endpoint) -> None:
    answer = made("a", "b", "c", "d")
    stream, got = started(endpoint, answer, 4, most=2)
    assert "router.failover_tokens" in stream.fault_now()
    assert len(stream.tokens) == 0
    assert read(got)["ids"] == {FIRST}


@pytest.mark.parametrize("endpoint", list(Endpoint))
def test_bound_that_a_repeated_stream_passes_changes_nothing_in_it(endpoint: Endpoint) -> None:
    """The bound may be passed while content that was shown comes again: a parser held back what followed."""
    answer = made("a", "b", "c", "d")
    stream, got = started(endpoint, answer, 2, most=3)
    whole = read(got + again(stream, endpoint, answer))
    reference = AnswerStream(endpoint, FIRST, MOST).feed(b"".join(answer.stream(endpoint, FIRST, 1, [1, 1])))
    assert whole == read(reference)
    assert stream.fault


@pytest.mark.parametrize("endpoint", list(Endpoint))
@pytest.mark.parametrize("line", [b"", b": tokens x\n", b": tokens 99999999999\n"])
def test_answer_whose_tokens_are_unknown_passes_and_is_not_repeated(endpoint: Endpoint, line: bytes) -> None:
    stream = AnswerStream(endpoint, FIRST, MOST)
    blocks = made("a", "b").stream(endpoint, FIRST, 1, [1])[:2]
    events = [block[block.find(b"data: ") :] for block in blocks]
    assert stream.feed(b"".join(line + event for event in events)) == b"".join(events)
    assert "tokens" in stream.fault_now()


@pytest.mark.parametrize("endpoint", [Endpoint.COMPLETIONS, Endpoint.CHAT])
def test_repetition_whose_events_have_times_of_their_own_shows_one_and_keeps_three_names(endpoint: Endpoint) -> None:
    """The time of an event may change each second, and a stream may last for hours."""
    answer, stream = made(*"abcdefgh"), AnswerStream(endpoint, FIRST, MOST)
    first = answer.stream(endpoint, FIRST, 0, [1] * 8)
    shown = b"".join(map(stream.feed, first[:3]))
    stream.repeat(SECOND, None)
    # event i of the run that began at i
    stamped = [answer.stream(endpoint, SECOND, i, [1] * 8)[i] for i in range(len(first))]
    shown += b"".join(map(stream.feed, stamped))
    assert shown == AnswerStream(endpoint, FIRST, MOST).feed(b"".join(first))
    assert len(stream._names) == 3


@pytest.mark.parametrize(
    ("choice", "why"),
    [
        ({"delta": {"tool_calls": ["x"]}}, "a tool call is no object"),
        ({"delta": {"content": "a"}, "token_ids": [None, "x"]}, ""),
    ],
)
def test_event_that_no_worker_should_send_passes(choice: dict[str, Any], why: str) -> None:
    stream = AnswerStream(Endpoint.CHAT, FIRST, MOST)
    event = b"data: " + orjson.dumps({"id": FIRST, "choices": [{"index": 0, **choice}]}) + b"\n\n"
    assert stream.feed(tokens_comment([1]) + event) == event
    assert why in stream.fault_now()
    assert bool(stream.fault_now()) is bool(why)


@pytest.mark.parametrize("end", [b"\r\n", b"\r"])
def test_lines_may_end_as_the_specification_allows(end: bytes) -> None:
    stream = AnswerStream(Endpoint.CHAT, FIRST, MOST)
    events = made("a", "b").stream(Endpoint.CHAT, FIRST, 1, [1])
    shown = b"".join(stream.feed(event.replace(b"\n", end)) for event in events)
    assert read(shown.replace(end, b"\n")) == read(b"".join(event[event.find(b"data: ") :] for event in events))
    assert len(stream.tokens) == 2


def test_increments_of_generate_are_not_repeated() -> None:
    """An event with `incremental_streaming_output` shows new tokens only, so nothing tells what came before."""
    stream = AnswerStream(Endpoint.GENERATE, FIRST, MOST)
    for i in range(2):
        data = {"text": "a", "output_ids": [i], "meta_info": {"id": FIRST, "completion_tokens": i + 1}}
        stream.feed(tokens_comment([i]) + b"data: " + orjson.dumps(data) + b"\n\n")
    assert "incremental_streaming_output" in stream.fault_now()


@pytest.mark.parametrize("endpoint", list(Endpoint))
def test_abort_ends_the_answer_with_what_was_shown(endpoint: Endpoint) -> None:
    answer = made("a", "b", "c", "d")
    stream, got = started(endpoint, answer, 3)
    assert stream.fault_now() == ""
    shown = read(got + stream.abort_event())
    if endpoint is Endpoint.GENERATE:
        assert (shown["last"]["text"], shown["last"]["meta_info"]["finish_reason"]["type"]) == ("abc", "abort")
    else:
        assert (shown.get("text", shown.get("content")), shown["finish"]) == ("abc", [("abort", None)])
    assert shown["ids"] == {FIRST}


@pytest.mark.parametrize("endpoint", list(Endpoint))
def test_abort_by_a_worker_that_repeats_the_answer_ends_it_with_what_was_shown(endpoint: Endpoint) -> None:
    stream, got = started(endpoint, made("a", "b", "c", "d"), 3)
    assert stream.fault_now() == ""
    stream.repeat(SECOND, None)
    names: dict[str, Any] = {"id": SECOND, "object": "x", "created": 5, "model": "m"}
    if endpoint is Endpoint.GENERATE:
        reason = {"type": "abort", "message": "gone"}
        data: dict[str, Any] = {"text": "a", "output_ids": [0], "meta_info": {"id": SECOND, "finish_reason": reason}}
    elif endpoint is Endpoint.CHAT:
        data = {**names, "choices": [{"index": 0, "delta": {}, "finish_reason": "abort", "matched_stop": None}]}
    else:
        data = {**names, "choices": [{"index": 0, "text": "a", "finish_reason": "abort", "matched_stop": None}]}
    shown = read(got + stream.feed(tokens_comment([0]) + b"data: " + orjson.dumps(data) + b"\n\n"))
    if endpoint is Endpoint.GENERATE:
        assert shown["last"]["text"] == "abc"
        assert shown["last"]["meta_info"]["finish_reason"]["type"] == "abort"
    else:
        assert (shown.get("text", shown.get("content")), shown["finish"]) == ("abc", [("abort", None)])


@pytest.mark.parametrize("endpoint", list(Endpoint))
def test_event_like_the_one_before_it_is_noted_without_parsing(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[bytes] = []

    def count(data: bytes) -> Any:
        parsed.append(data)
        return orjson.loads(data)

    monkeypatch.setattr("sun_sglang.router.protocol.replay.answer_stream.parse_result", count)
    answer = made(*(f' "{i}"\n' for i in range(50)))
    stream, got = started(endpoint, answer, 49)
    assert len(parsed) <= 2
    assert read(got + again(stream, endpoint, answer))["done"] == 1


@pytest.mark.parametrize("endpoint", [Endpoint.COMPLETIONS, Endpoint.CHAT])
def test_memory_of_a_stream_is_four_bytes_a_token_and_a_constant(endpoint: Endpoint) -> None:
    count = 4000
    block = made("word").stream(endpoint, FIRST, 1, [])[endpoint is Endpoint.CHAT].replace(b'"stop"', b"null")
    event = block[block.find(b"data: ") :]
    stream = AnswerStream(endpoint, FIRST, 1 << 20)
    stream.feed(tokens_comment([0]) + event)
    tracemalloc.start()
    for token in range(1, count):
        stream.feed(tokens_comment([token]) + event)
    # threads that earlier tests have left may allocate meanwhile
    own = tracemalloc.take_snapshot().filter_traces((tracemalloc.Filter(True, "*/router/protocol/replay/*"),))
    tracemalloc.stop()
    held = sum(trace.size for trace in own.traces)
    assert len(stream.tokens) == count
    # an array that grows has some bytes to spare, and some events wait to be noted
    assert held < 4 * count * 1.1 + 16_000
