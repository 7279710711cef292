"""What the benchmark of shared prompts reads and computes."""

from __future__ import annotations

import json
import random

import pytest

from sun_sglang.bench.router.shared_prompt import UNITS, Answer, AnswerReader, request_body, summary


def event(index: int | None, prompt: int = 0, cached: int = 0) -> bytes:
    named = {} if index is None else {"index": index}
    meta = {"prompt_tokens": prompt, "cached_tokens": cached}
    return b"data: " + json.dumps({**named, "text": "a", "meta_info": meta}).encode() + b"\n"


def test_reader_returns_the_first_time_and_the_last_counts_of_each_answer() -> None:
    reader = AnswerReader()
    lines = [event(1, 100, 0), b"\n", event(0, 100, 99), event(1, 100, 64), b": comment\n", b"data: [DONE]\n"]
    for now, line in enumerate(lines):
        reader.feed(line, float(now))
    assert reader.answers() == [Answer(1, 2.0), Answer(36, 0.0)]


def test_reader_of_one_answer_needs_no_index() -> None:
    reader = AnswerReader()
    reader.feed(event(None, 5, 0), 1.5)
    assert reader.answers() == [Answer(5, 1.5)]


def test_stream_that_ends_with_an_error_is_no_measurement() -> None:
    with pytest.raises(RuntimeError, match="it broke"):
        AnswerReader().feed(b'data: {"error": {"message": "it broke"}}\n', 0.0)


def test_summary_adds_tokens_and_spans_first_to_last() -> None:
    values = summary(10.0, [Answer(1, 10.5), Answer(100, 10.25), Answer(1, 11.0)])
    assert values == {"computed_tokens": 102, "first_ttft_ms": 250.0, "last_ttft_ms": 1000.0}
    assert values.keys() == UNITS.keys()


def test_prompts_are_new_and_of_the_length() -> None:
    rng = random.Random(1)
    bodies = [request_body(rng, "math", 300, 250, 8) for _ in range(20)]
    assert {len(body["input_ids"]) for body in bodies} == {300}
    assert len({tuple(body["input_ids"]) for body in bodies}) == 20
    assert all(5 <= token < 250 for body in bodies for token in body["input_ids"])
