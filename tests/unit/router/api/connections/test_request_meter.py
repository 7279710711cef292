"""Where the meter finds headers, in any pieces in which a connection's bytes arrive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.router.api.connections.request_meter import MAX_HEADER_BYTES, RequestMeter

BODIES = st.one_of(
    st.binary(max_size=30), st.sampled_from([b"\r\n\r\n", b"\n\n", b"GET / HTTP/1.1\r\n\r\n", b"0\r\n\r\n"])
)


def plain(body: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: x\r\nContent-LENGTH:  %d\r\n\r\n" % len(body) + body


def chunked(chunks: list[bytes], trailer: bytes) -> bytes:
    body = b"".join(b"%X;a=b\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks if chunk)
    return b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n" + body + b"000\r\n" + trailer + b"\r\n"


REQUESTS = st.one_of(
    st.just(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
    st.just(b"\r\n\r\nGET / HTTP/1.1\nHost: x\n\n"),
    BODIES.map(plain),
    st.builds(chunked, st.lists(BODIES, max_size=3), st.sampled_from([b"", b"X: y\r\n", b"X: y\r\nZ: 0\r\n"])),
)


def measure(data: bytes, cuts: list[int]) -> tuple[RequestMeter, bool]:
    meter, over = RequestMeter(), False
    for cut in [*cuts, max(1, len(data))]:
        piece, data = data[:cut], data[cut:]
        over = over or meter.exceeds(piece)
    return meter, over


CUTS = st.lists(st.integers(1, 60), max_size=12)


@given(st.lists(REQUESTS, max_size=5), st.sampled_from([b"", b"\r\n", b"G", b"GET / HTTP/1.1\r\nHost: x\r\n\r"]), CUTS)
def test_meter_finds_every_request_and_the_beginning_of_the_next(
    requests: list[bytes], rest: bytes, cuts: list[int]
) -> None:
    meter, over = measure(b"".join(requests) + rest, cuts)
    assert (meter.requests, meter.in_header, over) == (len(requests), b"G" in rest, False)


@given(
    st.integers(0, 2 * MAX_HEADER_BYTES), st.lists(st.integers(1, 100_000), max_size=5), st.lists(REQUESTS, max_size=2)
)
def test_meter_counts_the_header_and_nothing_beside_it(size: int, cuts: list[int], before: list[bytes]) -> None:
    header = b"POST / HTTP/1.1\r\nContent-Length: 200000\r\nX: " + b"y" * size + b"\r\n\r\n"
    meter, over = measure(b"".join(before) + header + b"z" * 200_000, cuts)
    assert over == (len(header) > MAX_HEADER_BYTES)
    assert meter.requests == len(before) + (not over)


@pytest.mark.parametrize("begin", [b"5;", b"5\r\nhello\r\n0\r\nX: "], ids=["chunk-size", "trailer"])
def test_meter_bounds_the_lines_of_a_chunked_body(begin: bytes) -> None:
    data = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + begin
    assert not measure(data + b"y" * (MAX_HEADER_BYTES - 10), [])[1]
    meter, over = measure(data + b"y" * MAX_HEADER_BYTES, [])
    assert (over, meter.start) == (True, len(data) - len(begin.split(b"\n")[-1]))


def test_meter_reports_where_the_header_that_is_too_large_begins() -> None:
    first = plain(b"abc")
    meter, over = measure(first + b"\r\nGET / HTTP/1.1\r\nX: " + b"y" * MAX_HEADER_BYTES, [])
    assert (over, meter.start) == (True, len(first) + 2)
    meter, over = measure(first + b"GET / HTTP/1.1\r\nX: " + b"y" * MAX_HEADER_BYTES, [len(first) + 9])
    assert (over, meter.start) == (True, 0)
