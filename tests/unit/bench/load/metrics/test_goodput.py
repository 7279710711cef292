from __future__ import annotations

from array import array

import pytest

from sun_sglang.bench.load.client.record import RequestRecord
from sun_sglang.bench.load.errors import FlagError
from sun_sglang.bench.load.metrics.goodput import is_good, parse_goodput

# TTFT 500 ms, TPOT 50 ms, 600 ms in all, 20 tokens a second for the user; due a second before it was sent
RECORD = RequestRecord(
    0, "a", 3, due=1.0, sent=2.0, first=2.5, last=2.6, ended=2.7, arrivals=array("d"), output_tokens=3
)


def test_goodput_of_aiperfs_form_is_read() -> None:
    expected = {"time_to_first_token": 500.0, "inter_token_latency": 3.4}
    assert parse_goodput("time_to_first_token:500 inter_token_latency:3.4") == expected
    assert parse_goodput(" time_to_first_token:500,inter_token_latency:3.4 ") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no objective"),
        ("ttft:1", "unknown metric `ttft`; known: `time_to_first_token`, "),
        ("time_to_first_token", "write METRIC:LIMIT"),
        ("time_to_first_token:fast", "write METRIC:LIMIT"),
        ("time_to_first_token:nan", "write METRIC:LIMIT"),
        ("time_to_first_token:-1", "write METRIC:LIMIT"),
        ("time_to_first_token:1 time_to_first_token:2", "named twice"),
    ],
)
def test_goodput_that_is_wrong_names_the_flag_and_the_fix(text: str, message: str) -> None:
    with pytest.raises(FlagError, match=rf"^--goodput: .*{message}"):
        parse_goodput(text)


@pytest.mark.parametrize(
    ("name", "limit", "good"),
    [
        ("time_to_first_token", 500.1, True),
        ("time_to_first_token", 499.9, False),
        ("inter_token_latency", 50.1, True),
        ("inter_token_latency", 49.9, False),
        ("request_latency", 600.1, True),
        ("request_latency", 599.9, False),
        ("scheduled_time_to_first_token", 1500.1, True),
        ("scheduled_time_to_first_token", 1499.9, False),
        ("scheduled_request_latency", 1600.1, True),
        ("scheduled_request_latency", 1599.9, False),
        ("output_token_throughput_per_user", 19.9, True),
        ("output_token_throughput_per_user", 20.1, False),
    ],
)
def test_answer_is_good_within_its_limit(name: str, limit: float, good: bool) -> None:
    assert is_good(RECORD, {name: limit}) is good
    assert is_good(RECORD, {"request_latency": 1e9, name: limit}) is good
    assert not is_good(RECORD, {name: limit, "request_latency": 1.0})


def test_answer_of_one_token_is_within_the_limits_between_tokens() -> None:
    one = RequestRecord(0, "a", 1, None, 0.0, first=1.0, last=1.0, ended=1.0, output_tokens=1)
    assert is_good(one, {"inter_token_latency": 1.0, "output_token_throughput_per_user": 1e9})
