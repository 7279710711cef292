from __future__ import annotations

import pytest

from sun_sglang.router.health.load_report import parse_load
from sun_sglang.router.workers.decode_steps import DecodeSteps, DecodeTotals


def test_loads_of_all_ranks_together() -> None:
    rank = b'{"num_running_reqs":2,"num_waiting_reqs":1,"num_total_tokens":70}'
    assert parse_load(b'{"loads":[' + rank + b"," + rank + b"]}")[:2] == (6, 140)
    for nothing in (b"", b"[]", b'{"loads":null}', b'{"loads":[{"num_running_reqs":null}]}', b'{"loads":[3]}'):
        assert parse_load(nothing)[:2] == (0, 0)


@pytest.mark.parametrize("count", ["-1", "1e3", "true", str(1 << 41)])
def test_load_count_out_of_bounds_counts_as_none(count: str) -> None:
    assert parse_load(b'{"loads":[{"num_running_reqs":%b,"num_waiting_reqs":2}]}' % count.encode()).requests == 2


def test_load_nested_too_deep_to_compare_counts_as_none() -> None:
    """Python compares nested lists by recursion, and the stamp is compared with the one before."""
    deep = b"[" * 1000 + b"]" * 1000
    assert parse_load(b'{"loads":[{"num_running_reqs":1,"timestamp":' + deep + b"}]}") == (0, 0, None, None)


def test_decode_steps_of_all_ranks_are_added_and_other_values_are_none() -> None:
    rank = b'{"num_used_tokens":%d,"max_total_num_tokens":100,"decode_moments":%b}'
    report = parse_load(
        b'{"loads":[' + rank % (10, b"[2,6,3e6,20,9e6,6]") + b"," + rank % (30, b"[1,1,1e6,1,1e6,1]") + b"]}"
    )
    assert report.decode == DecodeTotals(steps=3, requests=7, seconds=4.0, used=20, kv_tokens=200)
    for odd in (
        b"null",
        b"[0,0,0,0,0,0]",
        b"[1,2,3]",
        b'["1",1,1,1,1,1]',
        b"[-1,1,1,1,1,1]",
        b"{}",
        b"[1,1,1e999,1,1,1]",
    ):
        assert parse_load(b'{"loads":[' + rank % (10, odd) + b"]}").decode is None


def test_context_of_decode_steps_is_sampled_and_begins_again_with_a_new_start() -> None:
    steps = DecodeSteps()
    assert steps.report() is None
    steps.note(DecodeTotals(steps=10, requests=20, seconds=1, used=100, kv_tokens=1000))
    steps.note(DecodeTotals(steps=30, requests=60, seconds=3, used=200, kv_tokens=1000))
    report = steps.report()
    assert report is not None
    assert (report.steps, report.context) == (30, 10 * 100 + 20 * 150)
    steps.note(DecodeTotals(steps=5, requests=5, seconds=1, used=40, kv_tokens=1000))
    steps.note(DecodeTotals(steps=7, requests=7, seconds=1, used=40, kv_tokens=1000))
    again = steps.report()
    assert again is not None
    assert (again.steps, again.context) == (7, 2 * 40)
