"""The latencies of one request. All are in milliseconds."""

from __future__ import annotations

from collections.abc import Iterator

from sun_sglang.bench.load.client.record import RequestRecord

_MS = 1000.0


def time_to_first_token(record: RequestRecord) -> float | None:
    """Return the time from sending the request to its first output token; None without one."""
    return (record.first - record.sent) * _MS if record.first is not None else None


def request_latency(record: RequestRecord) -> float | None:
    """Return the time from sending the request to its last output token; None without one."""
    return (record.last - record.sent) * _MS if record.last is not None else None


def scheduled_time_to_first_token(record: RequestRecord) -> float | None:
    """Return the time from when the request was due to its first token; None in a closed loop."""
    return (record.first - record.due) * _MS if record.first is not None and record.due is not None else None


def scheduled_request_latency(record: RequestRecord) -> float | None:
    """Return the time from when the request was due to its last token; None in a closed loop."""
    return (record.last - record.due) * _MS if record.last is not None and record.due is not None else None


def inter_token_latency(record: RequestRecord) -> float | None:
    """Return the mean time between two tokens after the first, the TPOT; None for an answer of one token."""
    if record.first is None or record.last is None or record.output_tokens < 2:
        return None
    return (record.last - record.first) * _MS / (record.output_tokens - 1)


def output_token_throughput_per_user(record: RequestRecord) -> float | None:
    """Return the tokens a second that a user sees after the first token, the interactivity: 1000 / TPOT.

    Returns:
        None for an answer of one token, and for one whose tokens arrived all at once.
    """
    latency = inter_token_latency(record)
    return _MS / latency if latency else None


def inter_chunk_latencies(record: RequestRecord) -> Iterator[float]:
    """Yield the times between the arrivals of tokens: what a user sees of a stream that stutters."""
    for before, after in zip(record.arrivals, record.arrivals[1:], strict=False):
        yield (after - before) * _MS
