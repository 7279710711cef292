"""The part of a request that does not depend on the pair of workers: serialized fields, expected work. Pure."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from sun_sglang.errors import RequestError
from sun_sglang.router.protocol.fan_out import SingleRequest
from sun_sglang.router.protocol.request import Endpoint, Request
from sun_sglang.router.scheduling.cost import Cost, uncached_tokens
from sun_sglang.router.scheduling.prefix_keys import NO_KEYS, PrefixKeys
from sun_sglang.router.workers.worker import Worker

# Approximate bytes of a leg besides the client's fields: ids, addresses, a namespace.
_IDS_BYTES = 256


class PairRequest(NamedTuple):
    """A request for one answer, before a pair of workers is selected.

    Attributes:
        endpoint: the path on both workers.
        task: its pools determine the pairs.
        shared: fields of both legs that all answers of a client's request share, as JSON without its closing brace. One
            object for all answers.
        own: fields of this answer's prompt, as JSON that continues `shared`. One object for all answers to the prompt.
        stream: the decode leg streams.
        stream_options: of the decode leg, as JSON; empty if there are none.
        extra_key: the client's part of the namespace.
        cache_salt: the same, under SGLang's other name.
        needs_prefill: the answer takes logprobs from the prefill leg.
        cost: expected work in tokens.
        keys: hashes of the prompt's beginnings, for routing policies that read them; else empty.
        holder: incarnation of the prefill worker that has the prompt in its cache; empty if none is known.
        group: a number that all answers to one shared prompt have; None for an answer that shares nothing.
        tokens: output tokens that the workers repeat, in a stream that reports its tokens (`contracts/replay.py`); None
            for an answer that is not continued elsewhere. One object with the stream's, which extends it.
    """

    endpoint: Endpoint
    task: str
    shared: bytes
    own: bytes
    stream: bool
    stream_options: bytes
    extra_key: str | None
    cache_salt: str | None
    needs_prefill: bool
    cost: Cost
    keys: PrefixKeys = NO_KEYS
    holder: str = ""
    group: int | None = None
    tokens: array[int] | None = None

    def sharing(self, group: int, holder: str) -> PairRequest:
        """Return the request for one of several answers to a prompt.

        Args:
            group: a number that all of these answers have.
            holder: incarnation of the prefill worker that has the prompt in its cache; empty if none is known.
        """
        return self._replace(group=group, holder=holder)

    def prefill_tokens(self, worker: Worker) -> int:
        """Return the prompt tokens that a prefill worker is expected to compute."""
        if not self.holder or worker.incarnation != self.holder or worker.card is None:
            return self.cost.prefill
        return uncached_tokens(self.cost.prefill, worker.card.identity.page_size)

    def rank(self, room: int, ranks: int) -> int:
        """Return the data-parallel rank that prefills: one for all answers to a prompt, since each rank has a cache.

        Args:
            room: bootstrap room of the attempt.
            ranks: how many the prefill worker has.
        """
        return (room if self.group is None else self.group) % ranks

    @property
    def size(self) -> int:
        """The bytes that both legs will send."""
        names = len(self.extra_key or "") + len(self.cache_salt or "") + _IDS_BYTES
        return 2 * (len(self.shared) + len(self.own) + names)


def make_pair_requests(
    request: Request,
    singles: Sequence[SingleRequest],
    costs: Sequence[Cost],
    *,
    worker_model: str,
    keys: Sequence[PrefixKeys] = (),
    max_bytes: int | None = None,
) -> tuple[PairRequest, ...]:
    """Return the requests for all answers, in the order of `singles`.

    Fields that all answers share are serialized once, and fields of one prompt once for each prompt.

    Args:
        request: the client's request.
        singles: one for each answer.
        costs: expected work of an answer to each prompt.
        worker_model: the `model` that the workers echo.
        keys: hashes of each prompt's beginning, if a routing policy reads them.
        max_bytes: bound of what the legs of several answers send together; None for no bound.

    Raises:
        RequestError: 413 if several answers would send more than `max_bytes` to the workers.
    """
    taken = singles[0].own_fields.keys()
    common = {name: value for name, value in request.body.items() if name not in taken} if taken else request.body
    options = b""
    if request.endpoint is not Endpoint.GENERATE:
        common = {**common, "model": worker_model}
        if request.stream:
            options = orjson.dumps({**(request.stream_options or {}), "include_usage": True})
    shared = orjson.dumps(common)[:-1]
    pair_requests: list[PairRequest] = []
    size, own = 0, b""
    for place, single in enumerate(singles):
        if place % request.n == 0 and single.own_fields:
            own = (b"," if common else b"") + orjson.dumps(single.own_fields)[1:-1]
        pair_request = PairRequest(
            endpoint=request.endpoint,
            task=request.task,
            shared=shared,
            own=own,
            stream=request.stream,
            stream_options=options,
            extra_key=single.extra_key,
            cache_salt=single.cache_salt,
            needs_prefill=needs_prefill(request.endpoint, single.body),
            cost=costs[single.prompt_index],
            keys=keys[single.prompt_index] if keys else NO_KEYS,
        )
        pair_requests.append(pair_request)
        if max_bytes is not None and len(singles) > 1:
            size += pair_request.size
            if size > max_bytes:
                raise _too_large(len(singles), len(shared), max_bytes)
    return tuple(pair_requests)


def worker_model(task: str) -> str:
    """Return the `model` that workers receive: the task's name, unless SGLang would parse it as `base:adapter`."""
    if ":" not in task:
        return task
    return "sun-task-" + hashlib.sha256(task.encode()).hexdigest()[:16]


def needs_prefill(endpoint: Endpoint, body: Mapping[str, Any]) -> bool:
    """Return whether the answer has logprobs that only the prefill worker's reply contains.

    These are the prompt's, and those of chosen token ids in place of the first token.
    """
    if endpoint is Endpoint.GENERATE:
        of_prompt = body.get("logprob_start_len") not in (None, -1)
        return bool(body.get("return_logprob")) and (of_prompt or bool(body.get("token_ids_logprob")))
    return endpoint is Endpoint.COMPLETIONS and bool(body.get("echo")) and bool(body.get("logprobs"))


def _too_large(answers: int, shared: int, max_bytes: int) -> RequestError:
    return RequestError(
        413,
        f"{answers} answers, each with the {shared} bytes that they have in common, are over the {max_bytes >> 20} MiB "
        "that one request may send to workers; ask for fewer answers, or split the list of prompts",
        code="fan_out_too_large",
    )
