"""A worker that a user starts by hand refuses settings with which SGLang would serve without its routes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sun_sglang.errors import UserError
from sun_sglang.http_application import OTHER_SERVER_FLAGS, require_http_application

DEFAULTS: dict[str, Any] = dict.fromkeys(OTHER_SERVER_FLAGS, False) | {"tokenizer_worker_num": 1}


@pytest.mark.parametrize("flag", OTHER_SERVER_FLAGS)
def test_flag_by_which_the_routes_are_not_served_is_refused_by_name(flag: str) -> None:
    flags = SimpleNamespace(**DEFAULTS | {flag: 2 if flag == "tokenizer_worker_num" else True})
    with pytest.raises(UserError, match=f"^--{flag.replace('_', '-')} .*; remove it$"):
        require_http_application(flags, {})


def test_defaults_pass() -> None:
    require_http_application(SimpleNamespace(**DEFAULTS), {"SGLANG_RUST_SERVER": "0"})


def test_rust_server_is_refused_by_its_variable() -> None:
    with pytest.raises(UserError, match=r"^SGLANG_RUST_SERVER would make SGLang serve through its Rust server"):
        require_http_application(SimpleNamespace(**DEFAULTS), {"SGLANG_RUST_SERVER": "True"})
