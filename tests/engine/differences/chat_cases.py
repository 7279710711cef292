"""Bodies of `/v1/chat/completions`."""

from __future__ import annotations

from typing import Any

from tests.engine.differences.case import MODEL, Case, apart, once, whole_and_streamed
from tests.engine.differences.completion_cases import FORMAT, USAGE
from tests.engine.differences.generate_cases import IDS, SCHEMA

PATH = "/v1/chat/completions"
USER = {"role": "user", "content": "hello there"}
FUNCTION = {"name": "f", "description": "counts", "parameters": SCHEMA}
TOOL = {"type": "function", "function": FUNCTION}
STRICT = {"type": "function", "function": FUNCTION | {"strict": True}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"n": 1}'}}
NAMED = {"type": "function", "function": {"name": "f"}}
TAG = {
    "type": "structural_tag",
    "structures": [{"begin": "<f>", "schema": SCHEMA, "end": "</f>"}],
    "triggers": ["<f>"],
}


def chat(length: Any = 5, *messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "messages": list(messages) or [USER],
        "max_tokens": length,
        "temperature": 0,
        "ignore_eos": True,
        **fields,
    }


# whole and streamed
ANSWERS: dict[str, dict[str, Any]] = {
    "text": chat(),
    "unicode": chat(5, {"role": "user", "content": "Grüße, 世界! \U0001f600 \u2028 \u0000"}),
    "final message is continued": chat(
        5, USER, {"role": "assistant", "content": "The answer"}, continue_final_message=True
    ),
    "n": chat(5, n=3),
    "top logprobs": chat(logprobs=True, top_logprobs=3),
    "logprobs of n": chat(4, logprobs=True, top_logprobs=1, n=2),
    "stop": chat(64, stop=["e", "a", "o", "\n"]),
    "regex": chat(64, regex="(yes|no), [0-9]{3}"),
    "JSON schema": chat(64, response_format=FORMAT),
    "tools": chat(tools=[TOOL]),
    "tools and JSON schema": chat(64, tools=[TOOL], response_format=FORMAT),
    "tools, required": chat(64, tools=[TOOL], tool_choice="required"),
    "tools, named": chat(64, tools=[TOOL], tool_choice=NAMED),
    "tools, named and strict": chat(64, tools=[STRICT], tool_choice=NAMED),
    "tool call that the model writes": chat(
        80, tools=[TOOL], regex='<\\|python_tag\\|>\\{"name": "f", "parameters": \\{"n": 5\\}\\}'
    ),
    "meta info": chat(return_meta_info=True),
    "details": chat(return_cached_tokens_details=True, return_spec_tokens_details=True),
    "own id": chat(rid="chat-own"),
}
# whole alone
WHOLE: dict[str, dict[str, Any]] = {
    "both lengths": chat(9, max_completion_tokens=6),
    "system and history": chat(
        5,
        {"role": "system", "content": "be good"},
        USER,
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "again"},
    ),
    "empty content": chat(5, {"role": "user", "content": ""}),
    "null content": chat(5, USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}, USER),
    "no content": chat(5, USER, {"role": "assistant", "tool_calls": [CALL]}, USER),
    "parts": chat(5, {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}),
    "tool answer": chat(
        5,
        USER,
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "7"},
    ),
    "assistant last": chat(5, USER, {"role": "assistant", "content": "The answer"}),
    "ids": chat(input_ids=IDS),
    "top logprobs without logprobs": chat(top_logprobs=3),
    "stop is kept": chat(64, stop=["e", "a", "o", "\n"], no_stop_trim=True),
    "seed": chat(temperature=1, top_k=1, seed=7),
    "JSON object": chat(12, response_format={"type": "json_object"}),
    "JSON schema without a name": chat(64, response_format={"type": "json_schema", "schema": SCHEMA}),
    "structural tag": chat(response_format=TAG),
    "tools, none": chat(tools=[TOOL], tool_choice="none"),
    "tools, strict": chat(64, tools=[STRICT], tool_choice="required"),
    "tools in a message": chat(5, USER | {"tools": [TOOL]}),
    "reasoning effort": chat(reasoning_effort="low"),
    "no reasoning": chat(reasoning_effort="none"),
    "reasoning object": chat(reasoning={"effort": "high", "enabled": True}),
    "thinking": chat(thinking={"type": "enabled", "budget_tokens": 10}),
    "reasoning content": chat(5, USER, {"role": "assistant", "content": "a", "reasoning_content": "b"}, USER),
    "template arguments": chat(chat_template_kwargs={"enable_thinking": False, "foo": [1]}),
    "token ids": chat(return_token_ids=True),
    "prompt ids": chat(return_prompt_token_ids=True),
    "ids in the extension": chat(return_input_ids_in_sglext=True, return_output_ids_in_sglext=True),
    "hints": chat(
        user="me", metadata={"a": "b"}, store=True, service_tier="auto", prompt_cache_key="k", verbosity="low"
    ),
    "nulls": chat(
        stop=None,
        tools=None,
        tool_choice=None,
        response_format=None,
        seed=None,
        user=None,
        logit_bias=None,
        top_logprobs=None,
        stream_options=None,
        max_completion_tokens=None,
        top_p=None,
        chat_template_kwargs=None,
    ),
}
STREAMED: dict[str, dict[str, Any]] = {
    "usage": chat(stream_options=USAGE),
    "usage in every event": chat(stream_options=USAGE | {"continuous_usage_stats": True}),
    "no usage": chat(stream_options={"include_usage": False}),
    "usage of n": chat(4, n=2, stream_options=USAGE),
}
LENIENT: dict[str, dict[str, Any]] = {
    "max_tokens is 5.0": chat(5.0),
    "max_tokens is a text": chat("5"),
    "max_completion_tokens is 5.0": chat(None, max_completion_tokens=5.0),
    "logprobs is a text": chat(logprobs="true"),
    "effort is a text of a number": chat(reasoning_effort="0.5"),
    "null n": chat(n=None),
    "null stream": chat(stream=None),
    "null temperature": chat(1, temperature=None, logit_bias={"70": 1000}),
    "null frequency_penalty": chat(frequency_penalty=None),
    "unknown field": chat(foo={"bar": [1]}),
    "unknown field in a message": chat(5, USER | {"foo": 1}),
    "empty tools": chat(tools=[]),
    "no length": {"messages": [USER], "temperature": 0, "stop_token_ids": list(range(5, 250))},
}
REFUSALS: dict[str, dict[str, Any] | bytes] = {
    "no messages": {"max_tokens": 4},
    "empty messages": chat(messages=[]),
    "message is a text": chat(messages=["hi"]),
    "empty message": chat(5, {}),
    "role that is unknown": chat(5, {"role": "nobody", "content": "hi"}),
    "user without content": chat(5, {"role": "user"}),
    "content is a number": chat(5, {"role": "user", "content": 3}),
    "part of text without text": chat(5, {"role": "user", "content": [{"type": "text"}]}),
    "picture": chat(
        5, {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]}
    ),
    "too long": chat(5, {"role": "user", "content": "x" * 3000}),
    "too much in all": chat(2000, {"role": "user", "content": "x" * 500}),
    "zero length": chat(0),
    "top_logprobs below 0": chat(logprobs=True, top_logprobs=-1),
    "tool choice that is unknown": chat(tools=[TOOL], tool_choice="always"),
    "tool choice without tools": chat(tool_choice="required"),
    "named tool that is not there": chat(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "g"}}),
    "tool without a function": chat(tools=[{"type": "function"}]),
    "tool call with wrong arguments": chat(
        5, USER, {"role": "assistant", "tool_calls": [CALL | {"function": {"name": "f", "arguments": "{"}}]}, USER
    ),
    "response format that is unknown": chat(response_format={"type": "yaml"}),
    "response format without a schema": chat(response_format={"type": "json_schema"}),
    "response format and required tool": chat(tools=[TOOL], tool_choice="required", response_format=FORMAT),
    "schema of no type": chat(
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "varchar"}}}
    ),
    "regex is wrong, streamed": chat(regex="(", stream=True),
    "reasoning effort that is unknown": chat(reasoning_effort="enormous"),
    "reserved template argument": chat(chat_template_kwargs={"tokenize": False}),
    "options without a stream": chat(stream_options=USAGE),
    "another model": chat(model="nobody"),
    "list as a body": b"[1]",
}
CASES: list[Case] = [
    *whole_and_streamed(PATH, ANSWERS),
    *apart(PATH, WHOLE),
    *apart(PATH, {f"{name}, streamed": body | {"stream": True} for name, body in STREAMED.items()}),
    *apart(PATH, LENIENT),
    *once(PATH, REFUSALS),
    Case(f"{PATH} same prompt again", PATH, {"model": MODEL, **chat(extra_key="chat again")}, times=2),
]
