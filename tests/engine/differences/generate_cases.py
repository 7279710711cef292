"""Bodies of `/generate`."""

from __future__ import annotations

import json
from typing import Any

from tests.engine.differences.case import MODEL, Case, apart, once, whole_and_streamed

PATH = "/generate"
IDS = [10, 11, 12, 13, 14, 15]
# so long that the router computes it once for several answers (`dispatch/shared_prompt.py`)
LONG = list(range(5, 255)) * 2
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


def greedy(length: int = 5, **params: Any) -> dict[str, Any]:
    return {"temperature": 0, "max_new_tokens": length, "ignore_eos": True, **params}


def ids(length: int = 5, **params: Any) -> dict[str, Any]:
    return {"input_ids": IDS, "sampling_params": greedy(length, **params)}


LOGPROBS = {"return_logprob": True}
# whole and streamed
ANSWERS: dict[str, dict[str, Any]] = {
    "text": {"text": "hello there", "sampling_params": greedy()},
    "no token": ids(0),
    "unicode": {"text": "Grüße, 世界! \U0001f600 \u2028 \u0000", "sampling_params": greedy()},
    "list of texts": {"text": ["one", "two and", "a third"], "sampling_params": greedy(5)},
    "list and n": {"input_ids": [IDS, [20, 21]], "sampling_params": greedy(5, n=2)},
    "top logprobs in text": ids() | LOGPROBS | {"top_logprobs_num": 2, "return_text_in_logprobs": True},
    "logprobs of the prompt": ids() | LOGPROBS | {"logprob_start_len": 0, "top_logprobs_num": 2},
    "logprobs of ids in the prompt": ids() | LOGPROBS | {"logprob_start_len": 0, "token_ids_logprob": [7, 9]},
    "logprobs of a list": {
        "input_ids": [IDS, [20, 21]],
        "sampling_params": greedy(4),
        "return_logprob": [True, False],
        "logprob_start_len": [0, -1],
        "top_logprobs_num": [2, 0],
    },
    "stop": ids(64, stop=["e", "a", "o", "\n"]),
    "stop is kept": ids(64, stop=["e", "a", "o", "\n"], no_stop_trim=True),
    "stop token": ids(64, stop_token_ids=list(range(5, 150)), ignore_eos=False),
    "least": ids(24, min_new_tokens=12, ignore_eos=False, stop_token_ids=list(range(5, 100))),
    "frequency penalty": ids(40, frequency_penalty=2),
    "JSON schema": ids(64, json_schema=json.dumps(SCHEMA)),
    "end token": ids(12, logit_bias={"1": 1000}, ignore_eos=False),
    "stream interval": ids(20, stream_interval=4),
    "own id": ids() | {"rid": "own"},
}
# whole alone
WHOLE: dict[str, dict[str, Any]] = {
    "ids": ids(),
    "to the end of the context": ids(max_new_tokens=None, stop_token_ids=list(range(5, 200)), ignore_eos=False),
    "list of ids": {"input_ids": [IDS, [20, 21]], "sampling_params": [greedy(3), greedy(5)]},
    "n": {"text": "hello", "sampling_params": greedy(5, n=3)},
    "logprobs from a place": ids() | LOGPROBS | {"logprob_start_len": 3},
    "logprobs from the last token": ids() | LOGPROBS | {"logprob_start_len": len(IDS) - 1},
    "stop that never comes": ids(stop="zzzzzz"),
    "least of two": ids(24, min_new_tokens=2, ignore_eos=False, stop_token_ids=list(range(5, 100))),
    "repetition penalty": ids(40, repetition_penalty=1.5),
    "logit bias": ids(6, logit_bias={"70": 100, "71": 99.5}),
    "one sort of token": ids(temperature=1, top_k=1),
    "seed": ids(temperature=1, top_k=1, sampling_seed=7),
    "regex": ids(64, regex="(yes|no), [0-9]{3}"),
    "special tokens are shown": ids(6, logit_bias={"2": 1000}, skip_special_tokens=False),
    "special tokens are skipped": ids(6, logit_bias={"2": 1000}),
    "prompt ids are returned": ids() | {"return_prompt_token_ids": True},
    "hints": ids()
    | {"session_id": "x", "conversation_id": "y", "routing_key": "z", "log_metrics": True, "custom_labels": {"a": "b"}},
    "nulls": ids(stop=None, top_p=None)
    | {"text": None, "return_logprob": None, "rid": None, "lora_path": None, "image_data": None},
}
LENIENT: dict[str, dict[str, Any]] = {
    "max_new_tokens is 5.0": ids(5.0),  # type: ignore[arg-type]  # a wrong type is the case
    "max_new_tokens is a text": ids("5"),  # type: ignore[arg-type]  # as above
    "n is 1.0": ids(n=1.0),
    "stop token is a text": ids(stop_token_ids=["5"]),
    "stream is a text": ids() | {"stream": "false"},
    "logprob_start_len is 0.0": ids() | LOGPROBS | {"logprob_start_len": 0.0},
    "id is a float": {"input_ids": [10.0, 11], "sampling_params": greedy(3)},
    "unknown field": ids() | {"foo": {"bar": [1]}},
}
REFUSALS: dict[str, dict[str, Any] | bytes] = {
    "no prompt": {"sampling_params": greedy()},
    "both prompts": {"text": "a", "input_ids": IDS, "sampling_params": greedy()},
    "too long": {"input_ids": [10] * 3000, "sampling_params": greedy()},
    "too long, streamed": {"input_ids": [10] * 3000, "sampling_params": greedy(), "stream": True},
    "too much in all": {"input_ids": [10] * 2000, "sampling_params": greedy(100)},
    "parameter that is unknown": ids(foo=1),
    "negative length": ids(-1),
    "negative temperature": ids(temperature=-1),
    "temperature in words": ids(temperature="warm"),
    "top_p of 0": ids(top_p=0),
    "top_k of 0": ids(top_k=0),
    "n of 0": ids(n=0),
    "least with many stop tokens": ids(4, min_new_tokens=2, stop_token_ids=list(range(5, 250))),
    "least over most": ids(4, min_new_tokens=8),
    "stop is a number": ids(stop=3),
    "bias of no id": ids(logit_bias={"x": 1}),
    "regex is wrong": ids(regex="("),
    "regex is wrong, streamed": ids(regex="(") | {"stream": True},
    "JSON schema is no JSON": ids(json_schema="{"),
    "two grammars": ids(regex="a", ebnf='root ::= "a"'),
    "parameters are a list of another length": {"input_ids": [IDS, IDS], "sampling_params": [greedy()]},
    "logprobs from beyond the prompt": ids() | LOGPROBS | {"logprob_start_len": 100},
    "adapter": ids() | {"lora_path": "x"},
    "null stream": ids() | {"stream": None},
    "stream is a word": ids() | {"stream": "maybe"},
    "half a body": b'{"text": ',
    "list as a body": b"[1]",
    "no body": b"",
    "not UTF-8": b'{"text": "\xff"}',
    "NaN": b'{"model":"own","input_ids":[10],"sampling_params":{"temperature":NaN}}',
    "a name twice": b'{"model":"own","input_ids":[9],"input_ids":[11,12],'
    b'"sampling_params":{"temperature":0,"max_new_tokens":2}}',
    "lone surrogate": b'{"model":"own","text":"\\ud800","sampling_params":{"temperature":0,"max_new_tokens":2}}',
}
CASES: list[Case] = [
    *whole_and_streamed(PATH, ANSWERS),
    *apart(PATH, WHOLE),
    *apart(PATH, LENIENT),
    *once(PATH, REFUSALS),
    Case(f"{PATH} same prompt again", PATH, {"model": MODEL, **ids(2), "extra_key": "generate again"}, times=2),
    Case(
        f"{PATH} long prompt and n",
        PATH,
        {"model": MODEL, "input_ids": LONG, "sampling_params": greedy(2, n=3)},
        # the decode worker may have the prompt already
        unequal=frozenset(("cached_tokens_details",)),
    ),
]
