"""Token counts and error messages of workers' replies."""

from __future__ import annotations

import pytest

from sun_sglang.router.protocol.worker_replies import TokenCounts, error_message, token_counts


def test_tokens_of_every_kind_of_reply() -> None:
    meta = {"meta_info": {"prompt_tokens": 3, "completion_tokens": 2, "cached_tokens": 1}}
    assert token_counts(meta) == TokenCounts(3, 2, 1)
    assert token_counts([meta, meta]) == TokenCounts(6, 4, 2)
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}
    assert token_counts({"usage": usage}) == token_counts(usage) == TokenCounts(3, 2, 1)
    assert token_counts({"usage": {**usage, "prompt_tokens_details": None}}) == TokenCounts(3, 2, 0)
    assert token_counts(None) == token_counts([]) == token_counts({"usage": None}) == TokenCounts(0, 0, 0)


@pytest.mark.parametrize(
    "body",
    [b'{"error":{"message":"m"}}', b'{"object":"error","message":"m","code":400}', b'{"error":"m"}', b"m", b'"m"'],
)
def test_error_messages_of_every_shape(body: bytes) -> None:
    assert error_message(body) == "m"
