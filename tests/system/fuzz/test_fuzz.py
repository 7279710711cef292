"""For any bytes, the router answers with a status below 500 or closes the connection, and every process goes on."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.system.fuzz.conftest import Target

MAKES_TEXT = ("/generate", "/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages")
POSTS = (*MAKES_TEXT, "/abort_request", "/flush_cache")
GETS = (
    *(
        "/tasks",
        "/v1/models",
        "/health",
        "/livez",
        "/readyz",
        "/ping",
        "/model_info",
        "/get_model_info",
        "/server_info",
    ),
    *("/flush_cache", "/metrics"),
)
JSON = b"Content-Type: application/json\r\n"

# the target is shared, and examples take as long as the machine lets them
quick = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)

FIELDS = (
    *("model", "text", "input_ids", "prompt", "messages", "sampling_params", "stream", "stream_options", "n", "rid"),
    *(
        "extra_key",
        "cache_salt",
        "max_tokens",
        "max_completion_tokens",
        "max_new_tokens",
        "temperature",
        "top_p",
        "top_k",
    ),
    *("logprobs", "top_logprobs", "return_logprob", "logprob_start_len", "top_logprobs_num", "token_ids_logprob"),
    *("echo", "stop", "stop_token_ids", "ignore_eos", "min_new_tokens", "regex", "json_schema", "response_format"),
    *("tools", "tool_choice", "user", "seed", "logit_bias", "suffix", "best_of", "bootstrap_host", "bootstrap_room"),
    *("data_parallel_rank", "lora_path", "session_params", "return_hidden_states", "input_embeds", "image_data"),
    *("custom_params", "custom_logit_processor", "frequency_penalty", "presence_penalty", "abort_all", "priority"),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, 1, -1, 128, 129, 2**31, 2**53, 2**63, 2**64]),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["math", "default", "", "\x00", "\ud800", "a" * 5000, "2.2.2.2"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=12,
)
bodies = st.dictionaries(st.sampled_from(FIELDS), values, max_size=6)
# right but for a few fields, so that what is checked late is reached as well
VALID: dict[str, dict[str, Any]] = {
    "/generate": {"model": "math", "input_ids": [1, 2, 3], "sampling_params": {"max_new_tokens": 2}},
    "/v1/completions": {"model": "math", "prompt": "hello", "max_tokens": 2},
    "/v1/chat/completions": {"model": "math", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2},
    "/v1/responses": {"model": "math", "input": "x", "max_output_tokens": 2},
    "/v1/messages": {"model": "math", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2},
}
tokens = st.text(
    "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=1, max_size=20
)
junk = st.binary(max_size=60)
lines = junk.map(lambda b: b.replace(b"\r", b"").replace(b"\n", b""))


def never_500(got: list[int]) -> None:
    assert all(status < 500 for status in got), got


@quick
@given(path=st.sampled_from(POSTS), body=bodies)
def test_bodies_of_known_fields(target: Target, path: str, body: Any) -> None:
    never_500([target.post(path, encode(body))])


@quick
@given(path=st.sampled_from(MAKES_TEXT), changes=bodies)
def test_bodies_that_are_nearly_right(target: Target, path: str, changes: Any) -> None:
    never_500([target.post(path, encode({**VALID[path], **changes}))])


@quick
@given(changes=st.dictionaries(st.sampled_from(FIELDS), values, max_size=4))
def test_sampling_params(target: Target, changes: Any) -> None:
    params = {"max_new_tokens": 2, **changes}
    never_500([target.post("/generate", encode({**VALID["/generate"], "sampling_params": params}))])


def encode(body: Any) -> bytes:
    return json.dumps(body).encode()


@quick
@given(path=st.sampled_from(POSTS), body=st.binary(max_size=200))
def test_bodies_of_any_bytes(target: Target, path: str, body: bytes) -> None:
    never_500([target.post(path, body)])


@quick
@given(
    path=st.sampled_from(MAKES_TEXT),
    cut=st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255))),
)
def test_bodies_that_were_damaged(target: Target, path: str, cut: float, flips: list[tuple[float, int]]) -> None:
    body = bytearray(encode(VALID[path]))
    for where, byte in flips:
        body[min(int(where * len(body)), len(body) - 1)] = byte
    never_500([target.post(path, bytes(body[: int(cut * len(body)) + 1]))])


@quick
@given(
    path=st.sampled_from((*POSTS, *GETS)),
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "get", "X"]),
    headers=st.lists(st.tuples(tokens, lines), max_size=5),
)
def test_any_headers(target: Target, path: str, method: str, headers: list[tuple[str, bytes]]) -> None:
    raw = b"".join(name.encode() + b": " + value + b"\r\n" for name, value in headers)
    body = encode(VALID["/generate"])
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n".encode()
    never_500(target.send(head + JSON + raw + b"\r\n" + body))


@quick
@given(
    name=st.sampled_from(
        [
            "Content-Type",
            "Content-Encoding",
            "Transfer-Encoding",
            "X-Sun-Task",
            "Expect",
            "Connection",
            "Upgrade",
            "Host",
        ]
    ),
    value=lines
    | st.sampled_from(
        [b"gzip", b"deflate", b"br", b"zstd", b"chunked", b"identity", b"100-continue", b"websocket", b"h2c"]
    ),
)
def test_headers_that_mean_something(target: Target, name: str, value: bytes) -> None:
    body = encode(VALID["/generate"])
    head = f"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n".encode()
    kind = b"" if name == "Content-Type" else JSON
    never_500(target.send(head + kind + name.encode() + b": " + value + b"\r\n\r\n" + body))


@quick
@given(
    path=st.sampled_from(POSTS),
    chunks=st.lists(
        st.tuples(st.integers(0, 40), st.binary(max_size=40), st.sampled_from([b"", b";a=b", b" ", b";" * 99]))
    ),
    end=st.sampled_from(
        [b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"", b"0\r\n", b"-1\r\n\r\n", b"zz\r\n", b"ffffffffffffffffff\r\n"]
    ),
)
def test_chunked_bodies(target: Target, path: str, chunks: list[tuple[int, bytes, bytes]], end: bytes) -> None:
    body = b"".join(b"%x%b\r\n%b\r\n" % (size, extension, data) for size, data, extension in chunks)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n".encode()
    never_500(target.send(head + JSON + b"\r\n" + body + end))


@quick
@given(path=st.sampled_from(MAKES_TEXT), sizes=st.lists(st.integers(1, 30), min_size=1, max_size=9))
def test_right_bodies_in_chunks_of_any_size_are_answered(target: Target, path: str, sizes: list[int]) -> None:
    body, framed = encode(VALID[path]), b""
    while body:
        size = sizes[len(body) % len(sizes)]
        framed += b"%x\r\n%b\r\n" % (len(body[:size]), body[:size])
        body = body[size:]
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n".encode()
    assert target.exchange(head + JSON + b"\r\n" + framed + b"0\r\n\r\n") == [200]


@pytest.mark.invariant("I16")
@quick
@given(raw=st.binary(max_size=300))
@example(raw=b"HTTP/1.1 ")
def test_any_bytes_at_all(target: Target, raw: bytes) -> None:
    never_500(target.send(raw))


@quick
@given(path=lines, query=lines)
def test_any_path(target: Target, path: bytes, query: bytes) -> None:
    for method in (b"GET", b"POST"):
        never_500(target.send(method + b" /" + path + b"?" + query + b" HTTP/1.1\r\nHost: x\r\n\r\n"))


@quick
@given(path=st.sampled_from(GETS), query=st.dictionaries(st.sampled_from(["timeout", "model", "x"]), tokens))
def test_any_query(target: Target, path: str, query: dict[str, str]) -> None:
    joined = "&".join(f"{k}={v}" for k, v in query.items())
    never_500(target.send(f"GET {path}?{joined} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()))


GOOD = encode(VALID["/generate"])
LENGTH = b"Content-Length: %d\r\n" % len(GOOD)
POST = b"POST /generate HTTP/1.1\r\nHost: x\r\n" + JSON
CORPUS = {
    "length and chunks": POST + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": POST + LENGTH + b"Content-Length: 3\r\n\r\n" + GOOD,
    "negative length": POST + b"Content-Length: -1\r\n\r\n" + GOOD,
    "length with a sign": POST + b"Content-Length: +5\r\n\r\n" + GOOD,
    "length with an underscore": POST + b"Content-Length: 1_0\r\n\r\n" + GOOD,
    "length that is no number": POST + b"Content-Length: x\r\n\r\n" + GOOD,
    "length beyond any": POST + b"Content-Length: 99999999999999999999\r\n\r\n" + GOOD,
    "length over the limit": POST + b"Content-Length: 2000000\r\n\r\n" + GOOD,
    "shorter than said": POST + b"Content-Length: 9999\r\n\r\n" + GOOD,
    "longer than said": POST + b"Content-Length: 3\r\n\r\n" + GOOD,
    "no length": POST + b"\r\n" + GOOD,
    "chunked twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked with a tab": POST + b"Transfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n",
    "chunked with a null": POST + b"Transfer-Encoding: chunked\x00\r\n\r\n0\r\n\r\n",
    "chunk size with a sign": POST + b"Transfer-Encoding: chunked\r\n\r\n+2\r\n{}\r\n0\r\n\r\n",
    "chunk size in hex notation": POST + b"Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n",
    "bare line feeds": POST.replace(b"\r\n", b"\n") + LENGTH.replace(b"\r\n", b"\n") + b"\n" + GOOD,
    "a folded header": POST + LENGTH + b"X: a\r\n b\r\n\r\n" + GOOD,
    "a header without a colon": POST + LENGTH + b"nonsense\r\n\r\n" + GOOD,
    "a header without a name": POST + LENGTH + b": x\r\n\r\n" + GOOD,
    "a space before the colon": POST + b"Content-Length : 3\r\n\r\n" + GOOD,
    "a header of 100 kB": POST + LENGTH + b"X: " + b"a" * 100_000 + b"\r\n\r\n" + GOOD,
    "10,000 headers": POST + LENGTH + b"X: a\r\n" * 10_000 + b"\r\n" + GOOD,
    "a path of 100 kB": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a path that climbs": b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
    "a path in escapes": b"GET /%2e%2e/%00/%ff/%zz HTTP/1.1\r\nHost: x\r\n\r\n",
    "a whole url": b"GET http://2.2.2.2/tasks HTTP/1.1\r\nHost: x\r\n\r\n",
    "a url that is none": b"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n",
    "only a star": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    "connect": b"CONNECT 2.2.2.2:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    "no host": b"GET /tasks HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /tasks HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "version 0.9": b"GET /tasks\r\n\r\n",
    "version 1.0": b"GET /tasks HTTP/1.0\r\n\r\n",
    "version 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "version 9.9": b"GET /tasks HTTP/9.9\r\nHost: x\r\n\r\n",
    "a tls hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    "a websocket": b"GET /generate HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    "nothing": b"",
    "a half of a line": b"POST /gene",
    "a half of the headers": POST + LENGTH,
    "two requests at once": (POST + LENGTH + b"\r\n" + GOOD) * 2,
    "a bad one after a good one": POST + LENGTH + b"\r\n" + GOOD + b"nonsense\r\n\r\n",
    "expects what nobody knows": POST + LENGTH + b"Expect: 42\r\n\r\n" + GOOD,
    "expects what is no text": POST + LENGTH + b"Expect: \xe6\r\n\r\n" + GOOD,
    "a type with a broken charset": POST.replace(b"json", b"json; charset=\xff") + LENGTH + b"\r\n" + GOOD,
}


@pytest.mark.parametrize("name", CORPUS)
def test_corpus_of_requests(target: Target, name: str) -> None:
    never_500(target.send(CORPUS[name]))
    target.check_alive()


BODIES = {
    "empty": b"",
    "null": b"null",
    "a number": b"1e400",
    "not a number": b'{"model":"math","input_ids":[1],"sampling_params":{"temperature":NaN}}',
    "infinity": b'{"model":"math","input_ids":[1],"sampling_params":{"temperature":Infinity}}',
    "beyond a double": b'{"model":"math","input_ids":[1],"sampling_params":{"temperature":1e999}}',
    "a key twice": b'{"model":"math","model":"x","input_ids":[1]}',
    "reserved twice": b'{"model":"math","bootstrap_room":null,"bootstrap_room":1,"input_ids":[1]}',
    "reserved in escapes": b'{"model":"math","\\u0062ootstrap_room":1,"input_ids":[1]}',
    "a lone surrogate": b'{"model":"math","text":"\\ud800"}',
    "a null in a string": b'{"model":"math","text":"a\\u0000b"}',
    "not utf-8": b'{"model":"math","text":"\xff\xfe"}',
    "utf-16": '{"model":"math","text":"x"}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + GOOD,
    "deep lists": b"[" * 200_000,
    "deep objects": b'{"a":' * 100_000,
    "a deep schema": b'{"model":"math","text":"x","sampling_params":{"json_schema":'
    + b'{"a":' * 900
    + b"1"
    + b"}" * 902,
    "a long integer": b'{"model":"math","input_ids":[' + b"9" * 5000 + b"]}",
    "a boolean for a token": b'{"model":"math","input_ids":[true]}',
    "a float for a token": b'{"model":"math","input_ids":[1.0]}',
    "no tokens": b'{"model":"math","input_ids":[]}',
    "lists of no tokens": b'{"model":"math","input_ids":[[],[]]}',
    "a million prompts": b'{"model":"math","input_ids":[' + b"[1]," * 99_999 + b"[1]]}",
    "n of a million": b'{"model":"math","input_ids":[1],"sampling_params":{"n":1000000}}',
    "n of zero": b'{"model":"math","input_ids":[1],"sampling_params":{"n":0}}',
    "no tokens wanted": b'{"model":"math","input_ids":[1],"sampling_params":{"max_new_tokens":0}}',
    "fewer than none": b'{"model":"math","input_ids":[1],"sampling_params":{"max_new_tokens":-1}}',
    "more than any": b'{"model":"math","input_ids":[1],"sampling_params":{"max_new_tokens":99999999999999999999}}',
    "a catastrophic regex": b'{"model":"math","input_ids":[1],"sampling_params":{"max_new_tokens":2,"regex":"(a*)*$"}}',
    "trailing text": GOOD + b"x",
    "over the limit": b'{"model":"math","text":"' + b"x" * (2 << 20) + b'"}',
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("path", MAKES_TEXT)
def test_corpus_of_bodies(target: Target, path: str, name: str) -> None:
    never_500([target.post(path, BODIES[name])])
    target.check_alive()


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_compressed_body_is_refused_unread(target: Target, encoding: str) -> None:
    pack = gzip.compress if encoding == "gzip" else zlib.compress
    bomb = pack(b'{"text":"' + b"x" * (64 << 20) + b'"}')
    got = target.post("/generate", bomb, ("Content-Type", "application/json"), ("Content-Encoding", encoding))
    assert got == 415
    target.check_alive()


@pytest.mark.invariant("I2")
def test_everything_lives(target: Target) -> None:
    target.check_alive()
