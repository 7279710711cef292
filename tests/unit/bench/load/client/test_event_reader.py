from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.bench.load.client.event_reader import EventReader, shortened
from tests.support.scripted_server import (
    DONE,
    event,
    stream_with_ids,
    token_event,
    usage_event,
    whole_stream,
)


def read(*pieces: bytes) -> tuple[EventReader, list[int]]:
    reader = EventReader()
    return reader, [reader.feed(piece) for piece in pieces]


@given(st.integers(1, 12), st.lists(st.integers(0, 4000)), st.booleans())
def test_reader_any_split_of_a_stream_counts_every_token_once(made: int, cuts: list[int], crlf: bool) -> None:
    stream = whole_stream(made, cached=3)
    if crlf:
        stream = stream.replace(b"\n\n", b"\r\n\r\n")
    at = [0, *sorted(c for c in cuts if c < len(stream)), len(stream)]
    reader, new = read(*(stream[a:b] for a, b in pairwise(at)))
    assert (sum(new), reader.tokens, reader.end(made)) == (made, made, None)
    usage = reader.usage()
    assert usage is not None
    assert usage["prompt_tokens_details"] == {"cached_tokens": 3}


@given(
    st.text(), st.sampled_from(['"completion_tokens":999', "data: [DONE]\n\n", '{"error":1}', '"text":"x"', "error"])
)
def test_reader_generated_text_that_looks_like_protocol_changes_nothing(before: str, odd: str) -> None:
    reader, new = read(token_event(1, text=before + odd), token_event(2, text=odd), usage_event(2) + DONE)
    assert (new, reader.end(2)) == ([1, 1, 0], None)


def test_reader_several_tokens_in_one_event_counts_them_all() -> None:
    assert read(token_event(1), token_event(4) + token_event(6))[1] == [1, 5]


def test_reader_server_without_continuous_usage_counts_events_with_text() -> None:
    """The first event of a chat has a role and no text: it is no token, and may come before the prompt is computed."""
    chunks = [
        event({"choices": [{"delta": {"role": "assistant", "content": ""}}]}),
        event({"choices": [{"delta": {"content": "a"}}], "usage": None}),
        event({"choices": [{"delta": {"reasoning_content": "b"}}]}) + event({"choices": [{"delta": {"content": "c"}}]}),
        event({"choices": [{"delta": {}, "finish_reason": "length"}]}),
        usage_event(3) + DONE,
    ]
    reader, new = read(*chunks)
    assert (new, reader.end(3)) == ([0, 1, 2, 0, 0], None)


def test_reader_spaces_in_json_are_read() -> None:
    piece = b'data: {"choices": [{"text": "a"}], "usage": {"completion_tokens": 2}}\n\n'
    assert read(piece)[1] == [2]


def test_reader_answer_of_another_length_fails_with_both_lengths_and_the_reason() -> None:
    reader, _ = read(whole_stream(3, finish="stop"))
    assert reader.end(5) == ("wrong_length", "3 tokens instead of 5, finish reason `stop`")
    reader, _ = read(whole_stream(3))
    assert reader.end(2) == ("wrong_length", "3 tokens instead of 2, finish reason `length`")


def test_reader_reason_usage_and_end_in_reads_of_their_own_are_all_found() -> None:
    reader, _ = read(token_event(1), token_event(2, finish="abort"), usage_event(2), DONE)
    assert reader.end(4) == ("wrong_length", "2 tokens instead of 4, finish reason `abort`")


def test_reader_stream_that_stops_fails() -> None:
    reader, _ = read(token_event(1), token_event(2)[:-1])
    assert reader.end(2) == ("stream", "the stream ended after 1 of 2 tokens, without `[DONE]`")


def test_reader_end_mark_without_its_blank_line_is_the_end() -> None:
    reader, _ = read(whole_stream(2)[:-2])
    assert reader.end(2) is None


def test_reader_no_usage_at_the_end_fails() -> None:
    reader, _ = read(event({"choices": [{"text": "a"}]}), DONE)
    found = reader.end(1)
    assert found is not None
    assert found.kind == "no_usage"


def test_reader_error_event_fails_with_the_servers_text() -> None:
    for content in ({"error": {"message": "a\nb", "code": 500}}, {"object": "error", "message": "a\nb"}):
        reader, _ = read(token_event(1), event(content), DONE)
        assert reader.end(1) == ("stream", "a b")


def test_reader_event_without_end_fails_within_bounds() -> None:
    reader = EventReader()
    fed = 0
    while reader.failure is None:
        reader.feed(b"x" * (1 << 20))
        fed += 1
        assert fed < 10
    assert reader.failure.kind == "stream"


def test_reader_events_that_are_no_objects_are_left_out() -> None:
    reader, new = read(b'data: [1]\n\ndata: {broken "error"\n\n: comment\n\n', token_event(1), usage_event(1), DONE)
    assert (sum(new), reader.end(1)) == (1, None)


def test_shortened_long_text_with_control_characters_becomes_one_short_line() -> None:
    assert shortened("a\x1b[31m\n b") == "a [31m b"
    assert len(shortened("x" * 10_000)) == 500


def ids_of(*pieces: bytes) -> list[int]:
    reader = EventReader(keeps_ids=True)
    for piece in pieces:
        reader.feed(piece)
    return list(reader.ids)


@given(st.lists(st.integers(0, 200_000), min_size=1, max_size=9), st.lists(st.integers(0, 4000)))
def test_reader_any_split_of_a_stream_has_the_ids_of_the_answer_alone(answer: list[int], cuts: list[int]) -> None:
    stream = stream_with_ids([7, 8, 9], answer)
    at = [0, *sorted(c for c in cuts if c < len(stream)), len(stream)]
    assert ids_of(*(stream[a:b] for a, b in pairwise(at))) == answer


@given(st.text())
def test_reader_generated_text_that_looks_like_ids_adds_none(text: str) -> None:
    assert ids_of(token_event(1, text=text + '"token_ids":[1,2]', ids={"token_ids": [5]})) == [5]


def test_reader_has_no_ids_where_there_are_none_or_none_are_kept() -> None:
    assert ids_of(whole_stream(3)) == []
    assert ids_of(token_event(0, text="", ids={"token_ids": []}), token_event(1, ids={"token_ids": [4]})) == [4]
    assert list(read(stream_with_ids([1], [2, 3]))[0].ids) == []


def test_reader_ids_that_are_no_ids_of_a_model_do_no_harm() -> None:
    event = b'data: {"choices":[{"token_ids":[99999999999999999999,]}]}\n\n'
    assert len(ids_of(event)) == 3
