from __future__ import annotations

import pytest

from sun_sglang.router.health.load_report import parse_load


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
    assert parse_load(b'{"loads":[{"num_running_reqs":1,"timestamp":' + deep + b"}]}") == (0, 0, None)
