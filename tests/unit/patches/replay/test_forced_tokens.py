"""Replacing sampled tokens by given ones, on stand-ins; `tests/engine/test_failover.py` runs SGLang itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sun_sglang.patches.replay.forced_tokens import (
    find_forced,
    note_forced,
    replace_before_logprobs,
    replace_sampled,
    sample,
)
from sun_sglang.patches.replay.stream_tokens import TOKENS_KEY

PROMPT = [11, 12, 13]


def req(*given: int) -> Any:
    custom = {TOKENS_KEY: list(given)} if given else None
    return SimpleNamespace(origin_input_ids=PROMPT, sampling_params=SimpleNamespace(custom_params=custom))


def batch(*rows: tuple[Any, int]) -> Any:
    """Return a batch of requests, each with the tokens that have KV after the pass."""
    return SimpleNamespace(reqs=[one for one, _ in rows], seq_lens_cpu=torch.tensor([length for _, length in rows]))


@pytest.mark.parametrize(
    ("length", "token"), [(2, None), (3, 90), (4, 91), (5, None)], ids=["chunk", "first", "last", "free"]
)
def test_place_of_a_token_follows_from_the_length_of_its_request(length: int, token: int | None) -> None:
    forced = find_forced(batch((req(), 4), (req(90, 91), length)))
    assert (forced and (forced.rows, forced.tokens)) == (([1], [token]) if token else None)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_given_tokens_are_in_place_before_logprobs_and_in_the_result(dtype: torch.dtype) -> None:
    info = SimpleNamespace()
    note_forced(SimpleNamespace(sampling_info=info), object, batch((req(90), 3), (req(), 4), (req(70, 71), 4)), None)
    read: list[list[int]] = []

    class Sampler:
        output_logprob_processor = SimpleNamespace()

        def forward(self, _logits: Any, sampling_info: Any, return_logprob: bool) -> Any:
            sampled = torch.tensor([1, 2, 3], dtype=dtype)
            if return_logprob:
                replace_before_logprobs(self.output_logprob_processor, None, None, None, sampled)
                read.append(sampled.tolist())
            replace_sampled(self, sampled, sampling_info)
            return sampled

    sampler = Sampler()
    for return_logprob in (True, False):
        assert sample(Sampler.forward, sampler, None, info, return_logprob).tolist() == [90, 2, 71]
    # a batch without given tokens, right after
    note_forced(SimpleNamespace(sampling_info=info), object, batch((req(), 3), (req(), 4), (req(), 5)), None)
    assert sample(Sampler.forward, sampler, None, info, True).tolist() == [1, 2, 3]
    assert read == [[90, 2, 71], [1, 2, 3]]
