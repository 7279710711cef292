"""All metrics of one window. `docs/bench.md` explains each; the names are AIPerf's where it has them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

from sun_sglang.bench.load.client.record import RequestRecord
from sun_sglang.bench.load.metrics import latency
from sun_sglang.bench.load.metrics.distribution import Distribution, distribution
from sun_sglang.bench.load.metrics.fairness import jain_index
from sun_sglang.bench.load.metrics.goodput import Objectives, is_good
from sun_sglang.bench.load.metrics.window import Window
from sun_sglang.strict import Strict


class Metrics(Strict):
    """The metrics of the requests of one task, or of all. Rates are per second of the window.

    Latencies are those of the requests that were completed in the window: whose answer ended in it, whole and with the
    wanted number of tokens.

    Attributes:
        request_count: requests completed in the window.
        error_request_count: requests that failed in the window.
        offered_request_count: requests that were due in the window, or in a closed loop sent in it.
        achieved_ratio: completed by offered requests; None where none was offered.
        request_throughput: completed requests a second.
        output_token_throughput: output tokens of the completed requests, per second.
        arrived_token_throughput: output tokens that arrived in the window, of any request, per second.
        total_token_throughput: prompt and output tokens of the completed requests, per second.
        output_token_throughput_per_worker: `output_token_throughput` by the number of workers; None where unknown.
        output_token_throughput_per_decode_worker: the same by the number of decode workers.
        time_to_first_token: from sending to the first token.
        inter_token_latency: of each request, the mean time between tokens after the first (TPOT).
        inter_chunk_latency: times between the arrivals of tokens, of all requests together.
        request_latency: from sending to the last token.
        output_token_throughput_per_user: of each request, 1000 by its `inter_token_latency` (interactivity).
        interactivity: 1000 by the mean `inter_token_latency`: tokens a second for a user.
        scheduled_time_to_first_token: from when a request was due to its first token; None in a closed loop.
        scheduled_request_latency: from when a request was due to its last token; None in a closed loop.
        input_sequence_length: prompt tokens, as the server counts them.
        output_sequence_length: output tokens.
        cached_token_count: prompt tokens that the server had in a cache; None where it reports none.
        cache_hit_ratio: `cached_token_count` by the prompt tokens.
        good_request_count: completed requests within every objective; None without objectives.
        goodput: `good_request_count` per second.
        good_request_ratio: `good_request_count` by the requests that ended in the window, failed ones included.
    """

    request_count: int
    error_request_count: int
    offered_request_count: int
    achieved_ratio: float | None
    request_throughput: float
    output_token_throughput: float
    arrived_token_throughput: float
    total_token_throughput: float
    output_token_throughput_per_worker: float | None
    output_token_throughput_per_decode_worker: float | None
    time_to_first_token: Distribution | None
    inter_token_latency: Distribution | None
    inter_chunk_latency: Distribution | None
    request_latency: Distribution | None
    output_token_throughput_per_user: Distribution | None
    interactivity: float | None
    scheduled_time_to_first_token: Distribution | None
    scheduled_request_latency: Distribution | None
    input_sequence_length: Distribution | None
    output_sequence_length: Distribution | None
    cached_token_count: int | None
    cache_hit_ratio: float | None
    good_request_count: int | None
    goodput: float | None
    good_request_ratio: float | None


class Workers(NamedTuple):
    """The numbers of workers that serve some tasks."""

    total: int
    decode: int


def summarise(
    records: Iterable[RequestRecord],
    window: Window,
    *,
    objectives: Objectives | None = None,
    workers: Workers | None = None,
) -> Metrics:
    """Return the metrics of some requests.

    Args:
        records: of one task, or of all.
        window: what was measured; longer than 0.
        objectives: those of the goodput.
        workers: the workers that serve the tasks; None where unknown.
    """
    records = list(records)
    seconds = window.seconds
    ended = [r for r in records if window.holds(r.ended)]
    done = [r for r in ended if r.failure is None]
    offered = sum(window.holds(r.due if r.due is not None else r.sent) for r in records)
    made, prompts = sum(r.output_tokens for r in done), sum(r.prompt_tokens for r in done)
    tpot = distribution(map(latency.inter_token_latency, done), "ms")
    cached = cached_tokens(done)
    good = sum(is_good(r, objectives) for r in done) if objectives else None
    return Metrics(
        request_count=len(done),
        error_request_count=len(ended) - len(done),
        offered_request_count=offered,
        achieved_ratio=len(done) / offered if offered else None,
        request_throughput=len(done) / seconds,
        output_token_throughput=made / seconds,
        arrived_token_throughput=sum(_arrived_tokens(r, window) for r in records) / seconds,
        total_token_throughput=(made + prompts) / seconds,
        output_token_throughput_per_worker=made / seconds / workers.total if workers else None,
        output_token_throughput_per_decode_worker=made / seconds / workers.decode if workers else None,
        time_to_first_token=distribution(map(latency.time_to_first_token, done), "ms"),
        inter_token_latency=tpot,
        inter_chunk_latency=distribution(chain.from_iterable(map(latency.inter_chunk_latencies, done)), "ms"),
        request_latency=distribution(map(latency.request_latency, done), "ms"),
        output_token_throughput_per_user=distribution(
            map(latency.output_token_throughput_per_user, done), "tokens/sec/user"
        ),
        interactivity=1000 / tpot.avg if tpot and tpot.avg else None,
        scheduled_time_to_first_token=distribution(map(latency.scheduled_time_to_first_token, done), "ms"),
        scheduled_request_latency=distribution(map(latency.scheduled_request_latency, done), "ms"),
        input_sequence_length=distribution((r.prompt_tokens for r in done), "tokens"),
        output_sequence_length=distribution((r.output_tokens for r in done), "tokens"),
        cached_token_count=cached,
        cache_hit_ratio=cached / prompts if cached is not None and prompts else None,
        good_request_count=good,
        goodput=good / seconds if good is not None else None,
        good_request_ratio=good / len(ended) if good is not None and ended else None,
    )


def fairness(tasks: Iterable[Metrics]) -> float | None:
    """Return Jain's index over the tasks' `achieved_ratio`; None where no task was offered a request."""
    return jain_index([task.achieved_ratio for task in tasks if task.achieved_ratio is not None])


def _arrived_tokens(record: RequestRecord, window: Window) -> int:
    return sum(
        count for at, count in zip(record.arrivals, record.arrived, strict=True) if window.start <= at < window.end
    )


def cached_tokens(done: Sequence[RequestRecord]) -> int | None:
    """Return the cached tokens of some requests; None where the server reports none.

    Some servers leave 0 out: where one answer has a number, no number is 0.
    """
    reported = [r.cached_tokens for r in done if r.cached_tokens is not None]
    return sum(reported) if reported else None
