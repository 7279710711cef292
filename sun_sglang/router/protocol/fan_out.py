"""Split a request for several answers into single requests, and merge their replies. Pure.

With separate prefill and decode workers, SGLang gives all samples of a request the same room, and they hang
(managers/tokenizer_manager.py). So the router sends one request for each answer. Answers have SGLang's order: the j-th
answer to prompt i has the index i * n + j.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from sun_sglang.router.protocol.fields.check import is_per_prompt
from sun_sglang.router.protocol.fields.table import PER_PROMPT
from sun_sglang.router.protocol.request import Endpoint, Request
from sun_sglang.router.protocol.worker_replies import count_at

# the field that every answer has, and every result in a stream
RESULT_FIELD = {Endpoint.GENERATE: "meta_info", Endpoint.COMPLETIONS: "choices", Endpoint.CHAT: "choices"}
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class SingleRequest(NamedTuple):
    """A request for one answer to one prompt.

    Attributes:
        answer_index: index of the answer in the reply.
        prompt_index: index of the prompt in the request.
        own_fields: the fields of this prompt alone; empty if the request has one prompt.
        body: `own_fields` and the request's other fields, which are not copied.
        rid: the client's id of the answer; None if it sent none.
        extra_key: the client's part of the cache namespace; None if it sent none.
        cache_salt: the same, under SGLang's other name.
    """

    answer_index: int
    prompt_index: int
    own_fields: Mapping[str, Any]
    body: Mapping[str, Any]
    rid: str | None
    extra_key: str | None
    cache_salt: str | None


def split_request(request: Request) -> tuple[SingleRequest, ...]:
    """Return the single requests of a request, ordered by `answer_index`."""
    if request.batch is None and request.n == 1:
        rid, key, salt = _rid(request, 0, 0), _pick(request.extra_key, 0), _pick(request.cache_salt, 0)
        return (SingleRequest(0, 0, _NOTHING, request.body, rid, key, salt),)
    batch = request.batch or 1
    owns = [_own(request, i) for i in range(batch)]
    bodies = [ChainMap(dict(own), request.body) if own else request.body for own in owns]
    return tuple(
        SingleRequest(
            answer_index=i * request.n + j,
            prompt_index=i,
            own_fields=owns[i],
            body=bodies[i],
            rid=_rid(request, i, i * request.n + j),
            extra_key=_pick(request.extra_key, i),
            cache_salt=_pick(request.cache_salt, i),
        )
        for i in range(batch)
        for j in range(request.n)
    )


def has_several_answers(request: Request) -> bool:
    """Return whether the reply is merged from several answers, or is a list by the request's format."""
    if request.n > 1:
        return True
    if request.endpoint is Endpoint.GENERATE:
        return request.batch is not None
    return request.batch is not None and request.batch > 1


def merge_replies(request: Request, replies: Sequence[Any]) -> Any:
    """Return one reply for all answers.

    Args:
        request: the client's request.
        replies: the replies to `split_request(request)`, in the same order, as parsed JSON.
    """
    if not has_several_answers(request):
        return replies[0]
    if request.endpoint is Endpoint.GENERATE:
        return list(replies)
    choices: list[Any] = []
    for index, reply in enumerate(replies):
        choices.extend({**choice, "index": index} for choice in reply["choices"])
    usage = merge_usage([reply.get("usage") for reply in replies], request.n)
    return {**replies[0], "choices": choices, "usage": usage}


def merge_usage(usages: Sequence[Mapping[str, Any] | None], n: int) -> dict[str, Any] | None:
    """Return the usage of all answers: the prompt tokens of each prompt once, the completion tokens of each answer.

    SGLang counts the same way (`UsageProcessor.calculate_response_usage`, srt/entrypoints/openai/usage_processor.py).

    Args:
        usages: the usage of each answer in index order; None for an answer without one.
        n: answers to each prompt.
    """
    if any(usage is None for usage in usages):
        return None
    given = [usage for usage in usages if usage is not None]
    of_prompts = given[::n]
    prompt = sum(count_at(usage, "prompt_tokens") for usage in of_prompts)
    completion = sum(count_at(usage, "completion_tokens") for usage in given)
    merged = dict(given[0]) | {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
    if "reasoning_tokens" in merged:
        merged["reasoning_tokens"] = sum(count_at(usage, "reasoning_tokens") for usage in given)
    for name, counted in (("prompt_tokens_details", of_prompts), ("completion_tokens_details", given)):
        if details := _sum_details(usage.get(name) for usage in counted):
            merged[name] = details
    return merged


def _sum_details(details: Iterable[object]) -> dict[str, int]:
    """Sum the counts of each name; empty if no answer has any. SGLang omits a count of 0 or sets it to null."""
    sums: dict[str, int] = {}
    for one in details:
        for name in one if isinstance(one, dict) else ():
            sums[name] = sums.get(name, 0) + count_at(one, name)
    return sums


def reindex(endpoint: Endpoint, chunk: dict[str, Any], index: int) -> dict[str, Any]:
    """Return the chunk of one answer's stream as a chunk of the merged stream.

    Args:
        endpoint: whose format the chunk has.
        chunk: the parsed chunk.
        index: the answer's index in the reply.
    """
    if endpoint is Endpoint.GENERATE:
        return {**chunk, "index": index}
    return {**chunk, "choices": [{**choice, "index": index} for choice in chunk.get("choices") or ()]}


def _own(request: Request, i: int) -> Mapping[str, Any]:
    if request.batch is None or request.endpoint is Endpoint.CHAT:
        return _NOTHING
    if request.endpoint is Endpoint.COMPLETIONS:
        return {"prompt": request.body["prompt"][i]}
    return _own_of_generate(request.body, i)


def _own_of_generate(body: Mapping[str, Any], i: int) -> dict[str, Any]:
    prompt = "text" if body.get("text") is not None else "input_ids"
    own = {prompt: body[prompt][i]}
    for field in PER_PROMPT:
        if is_per_prompt(value := body.get(field), field):
            own[field] = value[i]
    if isinstance(params := body.get("sampling_params"), list):
        own["sampling_params"] = params[i]
    return own


def _rid(request: Request, prompt: int, index: int) -> str | None:
    if request.rid is None:
        return None
    if isinstance(request.rid, tuple):
        return request.rid[prompt] if request.n == 1 else f"{request.rid[prompt]}_{index % request.n}"
    # SGLang derives the ids of a request's answers the same way (io_struct.py: _normalize_rid)
    return f"{request.rid}_{index}" if has_several_answers(request) else request.rid


def _pick(value: str | tuple[str, ...] | None, i: int) -> str | None:
    return value[i] if isinstance(value, tuple) else value
