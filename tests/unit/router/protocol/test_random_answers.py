"""Answers in any order and any pieces: a well-formed stream, equal to the whole answer."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from random import Random
from typing import Any, NamedTuple

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from sun_sglang.router.protocol.messages.request import MessageTranslation
from sun_sglang.router.protocol.responses.request import ResponseTranslation
from sun_sglang.router.protocol.sse import DONE, event
from sun_sglang.router.protocol.translation.interface import AnswerAbortedError, EventWriter
from sun_sglang.router.protocol.worker_replies import BadReplyError
from tests.unit.router.protocol.streams import message_of, response_of
from tests.unit.router.protocol.transcripts import call, delta, finish, read, usage, whole

RESPONSES = ResponseTranslation(orjson.dumps({"model": "math", "input": "hi"}))
MESSAGES = MessageTranslation(
    orjson.dumps({"model": "math", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]})
)
Chunks = list[dict[str, Any]]

TEXT = st.text(alphabet='ab"\\{} é\n', max_size=5)
ENDS = st.sampled_from(["stop", "length", "tool_calls", "content_filter"])
ARGUMENTS = st.dictionaries(TEXT, TEXT | st.integers(0, 9) | st.lists(TEXT, max_size=2), max_size=2).map(
    lambda value: orjson.dumps(value).decode()
)
TOKEN = {"token": "a", "bytes": [97], "logprob": -0.5}
ENTRY = {**TOKEN, "top_logprobs": [TOKEN]}
FAILURE = b'data: {"error": {"message": "it broke", "type": "server_error", "code": "stream_broken"}}\n\n'


def events_of(writer: EventWriter, data: bytes, cuts: Sequence[int] = ()) -> list[dict[str, Any]]:
    """Return the events of a stream that is cut into pieces."""
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    pieces = [data[i:j] for i, j in zip([0, *places], [*places, len(data)], strict=True)]
    sent = b"".join(read(writer, *pieces)).decode()
    return [orjson.loads(one.partition("\ndata: ")[2]) for one in sent.split("\n\n")[:-1]]


def whole_of(translation: ResponseTranslation | MessageTranslation, answer: dict[str, Any]) -> Any:
    """Return the whole answer as a client reads it; None for an error."""
    try:
        return orjson.loads(orjson.dumps(translation.whole(answer)))
    except (BadReplyError, AnswerAbortedError):
        return None


# --- the same answer, whole and in pieces -----------------------------------------------------------------------------


class Answer(NamedTuple):
    """A whole chat completion, and the parts of its stream in order: one list for each item."""

    body: dict[str, Any]
    queues: list[Chunks]
    together: bool


def pieces(text: str, random: Random) -> list[str]:
    places = sorted(random.choices(range(len(text) + 1), k=2))
    return [text[i:j] for i, j in zip([0, *places], [*places, len(text)], strict=True)]


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    """Number calls as OpenAI does, all alike, or by the place of the tool, with the position in the last part."""
    random = draw(st.randoms(use_true_random=False))
    reasoning, text, end = draw(TEXT), draw(TEXT), draw(ENDS)
    numbers = draw(st.sampled_from(["position", "alike", "tool"]))
    some = ARGUMENTS if numbers == "tool" else ARGUMENTS | st.just("")
    called = draw(st.lists(st.tuples(st.sampled_from(["f", "g"]), some), max_size=3))
    ids = [f"c{position if draw(st.booleans()) else 0}" for position in range(len(called))]
    calls = [
        {"id": id_, "index": 0, "function": {"name": name, "arguments": arguments}}
        for id_, (name, arguments) in zip(ids, called, strict=True)
    ]
    queues = [
        [delta(reasoning_content=piece) for piece in pieces(reasoning, random)],
        [delta(content=piece) for piece in pieces(text, random)],
    ]
    for position, (id_, (name, arguments)) in enumerate(zip(ids, called, strict=True)):
        index = {"position": position, "alike": -1, "tool": "gf".index(name)}[numbers]
        first, *more, last = pieces(arguments, random)
        begins = call(index, first, name)
        begins["choices"][0]["delta"]["tool_calls"][0]["id"] = id_
        end_index = position if numbers == "tool" else index
        queues.append([begins, *(call(index, piece) for piece in more), call(end_index, last)])
    body = whole(end, content=text, reasoning_content=reasoning, tool_calls=calls or None)
    return Answer(body, queues, together=numbers == "position")


def stream_of(answer: Answer, order: Iterable[dict[str, Any]]) -> bytes:
    end = finish(answer.body["choices"][0]["finish_reason"])
    return b"".join(map(event, [*order, end, usage()])) + DONE


CUTS = st.lists(st.integers(0, 10_000), max_size=4)


@settings(max_examples=60, deadline=None)
@given(answer=answers(), cuts=CUTS)
def test_answer_in_pieces_equals_the_whole_answer(answer: Answer, cuts: list[int]) -> None:
    data = stream_of(answer, chain.from_iterable(answer.queues))
    assert response_of(events_of(RESPONSES.writer(), data, cuts)) == whole_of(RESPONSES, answer.body)
    assert message_of(events_of(MESSAGES.writer(), data, cuts)) == whole_of(MESSAGES, answer.body)


@settings(max_examples=60, deadline=None)
@given(answer=answers(), random=st.randoms(use_true_random=False))
def test_answer_whose_items_grow_together_has_the_content_of_the_whole_answer(answer: Answer, random: Random) -> None:
    reasoning, text, *calls = answer.queues
    data = stream_of(answer, mixed([reasoning, text], calls, answer.together, random))
    assert contents(response_of(events_of(RESPONSES.writer(), data))) == contents(whole_of(RESPONSES, answer.body))
    assert contents(message_of(events_of(MESSAGES.writer(), data))) == contents(whole_of(MESSAGES, answer.body))


def mixed(texts: list[Chunks], calls: list[Chunks], together: bool, random: Random) -> Iterator[dict[str, Any]]:
    """Yield the chunks in a random order. Calls begin in turn, and grow together if the index tells them apart."""
    waiting = deque(map(list, calls))
    growing = [list(chunks) for chunks in texts]
    while waiting or any(growing):
        busy = [queue for queue in growing if queue]
        if waiting and (together or len(busy) == sum(map(bool, growing[:2]))) and random.random() < 0.4:
            growing.append(waiting.popleft())
            yield growing[-1].pop(0)
        elif busy:
            yield random.choice(busy).pop(0)


def contents(answer: Any) -> Any:
    """Return the text without blanks, the reasoning and the calls of an answer, without the order of the items."""
    assert answer is not None
    found: dict[str, Any] = {"text": "", "reasoning": "", "calls": []}
    for item in answer.get("output", answer.get("content")):
        match item["type"]:
            case "message":
                found["text"] += item["content"][0]["text"]
            case "text":
                found["text"] += item["text"]
            case "reasoning":
                found["reasoning"] += item["content"][0]["text"]
            case "thinking":
                found["reasoning"] += item["thinking"]
            case _:
                # the last call of an answer that was cut may have no arguments
                found["calls"].append((item["name"], item.get("arguments") or "{}", item.get("input")))
    found["text"] = "".join(found["text"].split())
    rest = {name: value for name, value in answer.items() if name not in ("output", "content")}
    return rest, found


# --- what no worker should send ---------------------------------------------------------------------------------------

ANY = st.sampled_from([None, True, -1, 3, 0.5, "x", "", [], [3], {}, {"a": []}])
SOME = st.sampled_from(["", "a", "é ", "{", "}", "{}", '{"a":', "1}", '"', "\\", "\n"])
PARTS = st.fixed_dictionaries(
    {},
    optional={
        "index": st.integers(-1, 2) | ANY,
        "id": st.sampled_from(["c0", "c1", ""]) | ANY,
        "function": ANY | st.fixed_dictionaries({}, optional={"name": SOME | ANY, "arguments": SOME | ANY}),
    },
)
DELTAS = ANY | st.fixed_dictionaries(
    {},
    optional={
        "content": SOME | ANY,
        "reasoning_content": SOME | ANY,
        "tool_calls": st.lists(PARTS, max_size=2) | st.lists(ANY, max_size=1) | ANY,
    },
)
ENTRIES = st.lists(st.just(ENTRY) | st.just({**TOKEN, "top_logprobs": [{}]}) | ANY, max_size=2)
CHOICES = st.fixed_dictionaries(
    {"delta": DELTAS},
    optional={
        "index": st.sampled_from([0, 0, 1]) | ANY,
        "finish_reason": ENDS | st.sampled_from(["abort", "?"]) | ANY,
        "matched_stop": ANY,
        "logprobs": st.fixed_dictionaries({"content": ENTRIES}) | ANY,
    },
)
USAGES = st.none() | st.fixed_dictionaries(
    {}, optional=dict.fromkeys(["prompt_tokens", "completion_tokens", "prompt_tokens_details"], ANY)
)
STRANGE = st.fixed_dictionaries(
    {"choices": st.lists(CHOICES, max_size=2)},
    optional={"id": ANY, "created": ANY, "model": ANY, "usage": USAGES},
)
JUNK = st.sampled_from(
    [FAILURE, b"data: x\n\n", b"data: [1]\n\n", b'data: {"choices": "x"}\n\n', b": ping\n\n", b"\r\n"]
)
SENT = STRANGE.map(event) | STRANGE.map(event) | STRANGE.map(event) | JUNK


@settings(max_examples=100, deadline=None)
@given(sent=st.lists(SENT, max_size=8), last=st.sampled_from([DONE, FAILURE]), cuts=CUTS)
def test_strange_stream_becomes_a_well_formed_one(sent: list[bytes], last: bytes, cuts: list[int]) -> None:
    data = b"".join(sent) + last
    response_of(events_of(RESPONSES.writer(), data, cuts))
    message_of(events_of(MESSAGES.writer(), data, cuts))


@settings(max_examples=100, deadline=None)
@given(answer=STRANGE)
def test_strange_answer_in_one_chunk_equals_the_whole_answer(answer: dict[str, Any]) -> None:
    data = event(answer) + DONE
    response = response_of(events_of(RESPONSES.writer(), data))
    assert (None if response["status"] == "failed" else response) == whole_of(RESPONSES, answer)
    assert message_of(events_of(MESSAGES.writer(), data)) == whole_of(MESSAGES, answer)
