"""Insert input logprobs, which the prefill worker computes, into the decode worker's answer. Pure.

The logprob of the first output token is not handled here: the prefill worker transfers it with the KV
(srt/disaggregation/utils.py: MetadataBuffers).
"""

from __future__ import annotations

from typing import Any

from sun_sglang.router.protocol.request import Endpoint
from sun_sglang.router.protocol.worker_replies import BadReplyError, parse_json

_COLUMNS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")


class InputLogprobs:
    """The logprobs of a prompt, read from the prefill worker's reply.

    In /generate they are the fields `input_*` of `meta_info`. In /v1/completions with `echo` they are the first entries
    of each list in `choices[0].logprobs`.

    Args:
        endpoint: whose format the reply and the answer have.
        prefill: the prefill worker's reply.

    Raises:
        BadReplyError: the reply contains no logprobs of a prompt.
    """

    def __init__(self, endpoint: Endpoint, prefill: bytes) -> None:
        self._endpoint = endpoint
        reply = parse_json(prefill)
        try:
            self._fields = _of_generate(reply) if endpoint is Endpoint.GENERATE else _of_completions(reply)
        except (AttributeError, IndexError, KeyError, TypeError) as e:
            raise BadReplyError("the prefill worker's reply holds no logprobs of the prompt") from e

    def add_to(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Return a decode worker's result or chunk with the prompt's logprobs.

        Args:
            answer: the parsed result. Its `meta_info` is an object and its `choices` a list of objects, if present. A
                result without choices is returned unchanged.
        """
        if self._endpoint is Endpoint.GENERATE:
            return {**answer, "meta_info": {**(answer.get("meta_info") or {}), **self._fields}}
        if not answer.get("choices"):
            return answer
        choice, *others = answer["choices"]
        own = choice.get("logprobs")
        own = own if isinstance(own, dict) else {}
        merged = {name: column + _list(own.get(name)) for name, column in self._fields.items()}
        return {**answer, "choices": [{**choice, "logprobs": {**own, **merged}}, *others]}


class StreamedLogprobs:
    """Inserts input logprobs into the first event of a stream, and for /generate also into the last event.

    SGLang sends them in every event of a /generate stream, whose events are cumulative. A client may read the first or
    the last event alone, so these two suffice. In /v1/completions SGLang sends them in the first event.
    """

    def __init__(self, endpoint: Endpoint, logprobs: InputLogprobs) -> None:
        self._cumulative = endpoint is Endpoint.GENERATE
        self._logprobs = logprobs
        self._begun = False

    def may_change(self, data: bytes) -> bool:
        """Return whether an event with this data may need the logprobs; if it does not, parsing it was needless."""
        return not self._begun or (self._cumulative and b'"finish_reason":null' not in data)

    def add_to(self, chunk: dict[str, Any]) -> dict[str, Any]:
        """Return the parsed data of an event, with the logprobs if the event needs them."""
        last = self._cumulative and (chunk.get("meta_info") or {}).get("finish_reason") is not None
        if self._begun and not last:
            return chunk
        shown = self._logprobs.add_to(chunk)
        self._begun = self._begun or shown is not chunk
        return shown


def _of_generate(reply: Any) -> dict[str, Any]:
    return {k: v for k, v in reply["meta_info"].items() if k.startswith("input_") and v is not None}


def _of_completions(reply: Any) -> dict[str, list[Any]]:
    count = reply["usage"]["prompt_tokens"]
    source = reply["choices"][0].get("logprobs") or {}
    return {name: _list(source.get(name))[:count] for name in _COLUMNS}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
