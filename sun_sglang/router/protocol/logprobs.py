"""Insert the logprobs that only the prefill worker has into the decode worker's answer. Pure.

These are the prompt's, and the first token's row of the chosen token ids (`token_ids_logprob`). The logprobs of
the first token and of its alternatives are in the decode worker's answer already: the prefill worker transfers them
with the KV (srt/disaggregation/utils.py: MetadataBuffers). A decode worker that makes the first token itself has that
row too.
"""

from __future__ import annotations

from typing import Any

from sun_sglang.router.protocol.request import Endpoint
from sun_sglang.router.protocol.worker_replies import BadReplyError, parse_json

_COLUMNS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
_ROWS = "output_token_ids_logprobs"


class PrefillLogprobs:
    """The logprobs of a request that the prefill worker computed, read from its reply.

    In /generate the prompt's are the fields `input_*` of `meta_info`. In /v1/completions with `echo` they are the first
    entries of each list in `choices[0].logprobs`.

    Args:
        endpoint: whose format the reply and the answer have.
        prefill: the prefill worker's reply.

    Attributes:
        has_row: the reply has logprobs of chosen token ids in place of the first token.

    Raises:
        BadReplyError: the reply contains no logprobs of a prompt.
    """

    def __init__(self, endpoint: Endpoint, prefill: bytes) -> None:
        self._endpoint = endpoint
        reply = parse_json(prefill)
        try:
            self._fields = _of_generate(reply) if endpoint is Endpoint.GENERATE else _of_completions(reply)
            rows = reply["meta_info"].get(_ROWS) if endpoint is Endpoint.GENERATE else None
        except (AttributeError, IndexError, KeyError, TypeError) as e:
            raise BadReplyError("the prefill worker's reply holds no logprobs of the prompt") from e
        self._first_row = rows[0] if isinstance(rows, list) and rows else None
        self.has_row = bool(self._first_row)

    def add_to(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Return a decode worker's result or chunk with the prefill worker's logprobs.

        Args:
            answer: the parsed result. Its `meta_info` is an object and its `choices` a list of objects, if present. A
                result without choices is returned unchanged.
        """
        if self._endpoint is Endpoint.GENERATE:
            answer = self.add_row_to(answer)
            return {**answer, "meta_info": {**(answer.get("meta_info") or {}), **self._fields}}
        if not answer.get("choices"):
            return answer
        choice, *others = answer["choices"]
        own = choice.get("logprobs")
        own = own if isinstance(own, dict) else {}
        merged = {name: column + _list(own.get(name)) for name, column in self._fields.items()}
        return {**answer, "choices": [{**choice, "logprobs": {**own, **merged}}, *others]}

    def add_row_to(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Return a result of /generate whose empty first row of chosen token ids has the prefill worker's logprobs.

        A first row that is not empty belongs to another token: an event may begin after the first.
        """
        meta = answer.get("meta_info") or {}
        rows = meta.get(_ROWS)
        if not self.has_row or not isinstance(rows, list) or not rows or rows[0]:
            return answer
        return {**answer, "meta_info": {**meta, _ROWS: [self._first_row, *rows[1:]]}}


class StreamedLogprobs:
    """Inserts the prompt's logprobs into the first event of a stream, and for /generate also into the last event.

    SGLang sends them in every event of a /generate stream, whose events are cumulative. A client may read the first or
    the last event alone, so these two suffice. In /v1/completions SGLang sends them in the first event. The first
    token's row of chosen token ids is inserted into every event that has it.
    """

    def __init__(self, endpoint: Endpoint, logprobs: PrefillLogprobs) -> None:
        self._cumulative = endpoint is Endpoint.GENERATE
        self._logprobs = logprobs
        self._begun = False

    def may_change(self, data: bytes) -> bool:
        """Return whether an event with this data may need the logprobs; if it does not, parsing it was needless."""
        if not self._begun or self._logprobs.has_row:
            return True
        return self._cumulative and b'"finish_reason":null' not in data

    def add_to(self, chunk: dict[str, Any]) -> dict[str, Any]:
        """Return the parsed data of an event, with the logprobs if the event needs them."""
        last = self._cumulative and (chunk.get("meta_info") or {}).get("finish_reason") is not None
        if self._begun and not last:
            return self._logprobs.add_row_to(chunk) if self._logprobs.has_row else chunk
        shown = self._logprobs.add_to(chunk)
        self._begun = self._begun or shown is not chunk
        return shown


def _of_generate(reply: Any) -> dict[str, Any]:
    return {k: v for k, v in reply["meta_info"].items() if k.startswith("input_") and v is not None}


def _of_completions(reply: Any) -> dict[str, list[Any]]:
    # the prompt's entries come first; where the decode worker makes the first token, the usage counts one token less
    made = reply["usage"]["completion_tokens"]
    source = reply["choices"][0].get("logprobs") or {}
    count = len(_list(source.get("tokens"))) - made
    return {name: _list(source.get(name))[:count] for name in _COLUMNS}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
