"""The revision of a module in a request's namespace, and the settings of a worker that keeps modules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.contracts.first_token import mark_decode_first
from sun_sglang.contracts.module import (
    MODULES_VARIABLE,
    ModuleLimits,
    module_in,
    module_namespace,
    read_module_limits,
)
from sun_sglang.errors import UserError

REVISION = "0123456789abcdef"


@pytest.mark.parametrize("after", ["", "!rid", '#["a","b"]', '#["*fedcba9876543210",null]!rid'])
@pytest.mark.parametrize("before", ["", "@first-token-from-decode@"])
def test_module_is_read_from_its_place_in_a_namespace(before: str, after: str) -> None:
    assert module_in(before + module_namespace("pool@weights.flags", REVISION) + after) == REVISION


@given(st.text())
def test_clients_part_of_a_namespace_names_no_module(text: str) -> None:
    assert module_in(f"pool@weights#{text}") is None
    assert module_in(mark_decode_first(f"pool@weights+{REVISION}#{text}")) is None


@pytest.mark.parametrize("value", [None, 5, ["x"], "", "pool@weights", "pool@weights*0123", "*0123456789ABCDEF"])
def test_other_values_name_no_module(value: object) -> None:
    assert module_in(value) is None


def test_worker_without_the_variable_keeps_no_modules() -> None:
    assert read_module_limits({}) is None
    limits = ModuleLimits(host_bytes=5, ttft_slo=0.5)
    assert read_module_limits({MODULES_VARIABLE: limits.model_dump_json()}) == limits


@pytest.mark.parametrize("value", ["x", "{}", '{"host_bytes": -1}', '{"host_bytes": 1, "ttft_slo": 0}'])
def test_variable_of_another_form_is_one_error(value: str) -> None:
    with pytest.raises(UserError, match=MODULES_VARIABLE):
        read_module_limits({MODULES_VARIABLE: value})
