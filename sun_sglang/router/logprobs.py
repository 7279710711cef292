"""Input logprobs: computed by the prefill worker, delivered with the decode worker's answer. Pure.

The logprob of the first output token needs nothing here: the prefill worker hands it over with the KV
(srt/disaggregation/utils.py: MetadataBuffers).
"""

from __future__ import annotations

from typing import Any

from sun_sglang.router.request import Endpoint

_COLUMNS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")


def merge_input_logprobs(endpoint: Endpoint, decode: Any, prefill: Any) -> Any:
    """The decode worker's result or chunk with the input logprobs of the prefill worker's reply. Both parsed JSON.

    /generate: every `input_*` field of `meta_info`. /v1/completions with `echo`: the prompt's entries, which come first
    in each list of `choices[0].logprobs`.
    """
    if endpoint is Endpoint.GENERATE:
        theirs = {k: v for k, v in prefill["meta_info"].items() if k.startswith("input_") and v is not None}
        return {**decode, "meta_info": {**decode["meta_info"], **theirs}}
    if not decode.get("choices"):
        return decode
    count = prefill["usage"]["prompt_tokens"]
    source = prefill["choices"][0].get("logprobs") or {}
    choice = decode["choices"][0]
    own = choice.get("logprobs") or {}
    merged = {name: (source.get(name) or [])[:count] + (own.get(name) or []) for name in _COLUMNS}
    return {**decode, "choices": [{**choice, "logprobs": {**own, **merged}}, *decode["choices"][1:]]}
