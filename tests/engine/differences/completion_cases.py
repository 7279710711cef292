"""Bodies of `/v1/completions`."""

from __future__ import annotations

import json
from typing import Any

from tests.engine.differences.case import MODEL, Case, apart, once, whole_and_streamed
from tests.engine.differences.generate_cases import IDS, LONG, SCHEMA

PATH = "/v1/completions"


def text(length: Any = 5, **fields: Any) -> dict[str, Any]:
    return {"prompt": "hello there", "max_tokens": length, "temperature": 0, "ignore_eos": True, **fields}


USAGE = {"include_usage": True}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
# whole and streamed
ANSWERS: dict[str, dict[str, Any]] = {
    "text": text(),
    "unicode": text(prompt="Grüße, 世界! \U0001f600 \u2028 \u0000"),
    "list": text(5, prompt=["one", "two and", "a third"]),
    "list and n": text(5, prompt=["one", "two and"], n=2),
    "logprobs": text(logprobs=2),
    "logprobs of n": text(4, logprobs=1, n=2),
    "echo": text(echo=True),
    "echo and n": text(4, echo=True, n=2),
    "echo and logprobs": text(echo=True, logprobs=2),
    "echo and logprobs of a list": text(4, echo=True, logprobs=1, prompt=["one", "two and"]),
    "stop": text(64, stop=["e", "a", "o", "\n"]),
    "stop is kept": text(64, stop=["e", "a", "o", "\n"], no_stop_trim=True),
    "response format": text(64, response_format=FORMAT),
    "token ids": text(return_token_ids=True),
    "own id": text(rid="completions-own"),
    "details": text(return_cached_tokens_details=True, return_spec_tokens_details=True),
}
# whole alone
WHOLE: dict[str, dict[str, Any]] = {
    "ids": text(prompt=IDS),
    "default length": {"prompt": "hello", "temperature": 0, "ignore_eos": True},
    "list of ids": text(5, prompt=[IDS, [20, 21]]),
    "n": text(5, n=3),
    "echo and logprobs of ids": text(4, echo=True, logprobs=1, prompt=IDS),
    "seed": text(temperature=1, top_k=1, seed=7),
    "JSON schema": text(64, json_schema=json.dumps(SCHEMA)),
    "suffix": text(suffix=" end"),
    "hints": text(user="me", metadata={"a": "b"}, store=True, service_tier="auto", prompt_cache_key="k"),
    "nulls": text(
        stop=None, logprobs=None, suffix=None, seed=None, user=None, logit_bias=None, best_of=None, stream_options=None
    ),
}
STREAMED: dict[str, dict[str, Any]] = {
    "usage": text(stream_options=USAGE),
    "usage in every event": text(stream_options=USAGE | {"continuous_usage_stats": True}),
    "no usage": text(stream_options={"include_usage": False}),
    "usage of n": text(4, n=2, stream_options=USAGE),
    "empty options": text(stream_options={}),
}
LENIENT: dict[str, dict[str, Any]] = {
    "max_tokens is 5.0": text(5.0),
    "max_tokens is a text": text("5"),
    "max_tokens is 5.5": text(5.5),
    "temperature is a text": text(temperature="0"),
    "n is 1.0": text(n=1.0),
    "echo is a text": text(echo="true"),
    "logprobs is a text": text(logprobs="1"),
    "logprobs is true": text(logprobs=True),
    "seed is a text": text(seed="7"),
    "stop id is a text": text(stop_token_ids=["5"]),
    "logit bias is a text": text(logit_bias={"70": "100"}),
    "stream is a text": text(stream="false"),
    "user is a number": text(user=3),
    "null temperature": text(temperature=None, logit_bias={"70": 1000}),
    "null n": text(n=None),
    "null stream": text(stream=None),
    "unknown field": text(foo={"bar": [1]}),
    "id is a float": text(prompt=[10.0, 11]),
}
REFUSALS: dict[str, dict[str, Any] | bytes] = {
    "no prompt": {"max_tokens": 4},
    "mixed list": text(prompt=["a", 3]),
    "too long": text(prompt="x" * 3000),
    "too much in all": text(2000, prompt="x" * 500),
    "no length": text(0),
    "length in words": text("many"),
    "n of 0": text(n=0),
    "logprobs below 0": text(logprobs=-1),
    "stop is a number": text(stop=3),
    "regex is wrong, streamed": text(regex="(", stream=True),
    "response format of another type": text(response_format={"type": "yaml"}),
    "options without a stream": text(stream_options=USAGE),
    "another model": text(model="nobody"),
    "model is a number": text(model=3),
}
CASES: list[Case] = [
    *whole_and_streamed(PATH, ANSWERS),
    *apart(PATH, WHOLE),
    *apart(PATH, {f"{name}, streamed": body | {"stream": True} for name, body in STREAMED.items()}),
    *apart(PATH, LENIENT),
    *once(PATH, REFUSALS),
    Case(f"{PATH} same prompt again", PATH, {"model": MODEL, **text(extra_key="completions again")}, times=2),
    Case(
        f"{PATH} long prompt and n", PATH, {"model": MODEL, **text(2, prompt=LONG, n=3, extra_key="completions long")}
    ),
]
