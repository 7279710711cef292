"""The side that makes the first token of a pair, and the mark on its requests."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.contracts.first_token import Mark, first_token_of, first_token_side, mark_decode_first, read_mark
from sun_sglang.contracts.scheme import Side
from sun_sglang.router.dispatch.legs.cache_namespace import cache_namespace
from tests.unit.router.registries import card

POOLS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,5}", fullmatch=True)


@given(POOLS, st.text(max_size=30), st.text(max_size=30))
def test_mark_is_on_marked_namespaces_alone_whatever_a_client_sends(pool: str, extra_key: str, salt: str) -> None:
    namespace = cache_namespace(pool, "w", extra_key, salt)
    assert read_mark(namespace) == Mark(False, namespace)
    assert read_mark(mark_decode_first(namespace)) == Mark(True, namespace)


def test_mark_in_a_clients_key_stays_a_part_of_its_namespace() -> None:
    namespace = cache_namespace("math", "w", mark_decode_first("math@w"))
    assert read_mark(namespace) == Mark(False, namespace)


@pytest.mark.parametrize("value", [None, 3, ["@first-token-from-decode@x"]])
def test_key_that_is_no_text_has_no_mark(value: object) -> None:
    assert read_mark(value) == Mark(False, None)


@pytest.mark.parametrize(
    ("tuned_for", "of_prefill", "of_decode", "side"),
    [
        ("", "prefill", "prefill", "prefill"),
        ("", "prefill", "decode", "decode"),  # PrefillShare
        ("d", "prefill", "prefill", "prefill"),  # SUN
        ("d", "decode", "prefill", "decode"),  # SUN with vLLM's hand-over
        ("d", "prefill", "decode", "prefill"),  # a decoder that was itself tuned for another prefill module
        ("other", "decode", "prefill", "decode"),
        ("other", "prefill", "decode", "decode"),
        ("other", "prefill", "prefill", "prefill"),
    ],
)
def test_module_that_was_tuned_for_the_other_decides_who_makes_the_first_token(
    tuned_for: str, of_prefill: Side, of_decode: Side, side: Side
) -> None:
    assert first_token_side(tuned_for=tuned_for, decoder="d", of_prefill=of_prefill, of_decode=of_decode) == side
    prefill = card("prefill", tuned_for=tuned_for, first_token=of_prefill)
    for identity in ({"weights": "d"}, {"weights": "x", "decoder": "d"}):
        assert first_token_of(prefill, card("decode", first_token=of_decode, identity=identity)) == side


def test_pool_names_begin_with_no_mark() -> None:
    from sun_sglang.topology import PoolName

    pattern = PoolName.__metadata__[0].pattern  # type: ignore[attr-defined]  # of an annotated type
    assert not re.match(pattern, mark_decode_first(""))
