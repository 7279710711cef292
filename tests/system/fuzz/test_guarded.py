"""A router with keys and one with TLS: no bytes change, show or break anything without the right key."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sun_sglang.bench.polling import wait_until
from sun_sglang.bench.processes import router_command
from tests.support.certificate import self_signed
from tests.system.faults.cluster import Cluster, Worker
from tests.system.fuzz.conftest import HOST, PATIENCE_S, ROLES, begin, provoke, receive_all, statuses

USER, ADMIN, LAUNCHER = "user-0123456789abcdef", "admin-0123456789abcdef", "launcher-0123456789abcdef"
SECRETS = (USER, ADMIN, LAUNCHER)
OPEN = "/health"
ENDPOINTS = (
    *("/generate", "/v1/completions", "/v1/chat/completions", "/abort_request", "/flush_cache", "/tasks", "/workers"),
    *("/v1/responses", "/v1/messages", "/v1/messages/count_tokens", "/tokenize", "/detokenize"),
    *("/pools", "/tasks/math", "/workers/math-0", "/workers/math-0/drain", "/workers/base-0/resume", "/pools/math"),
    *("/v1/models", "/v1/models/math", "/model_info", "/get_model_info", "/server_info", "/get_server_info"),
    *("/metrics", "/health_generate", "/nowhere"),
)
ADMINS = tuple(
    p for p in ENDPOINTS if p.startswith(("/tasks", "/workers", "/pools", "/flush", "/server", "/get_server"))
)
METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH")
NAMES = ("math", "base", "math-0", "base-0", "new", "new-0")

quick = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
fewer = settings(quick, max_examples=60)


class Guarded:
    """A router with keys before two emulated workers."""

    def __init__(self, cluster: Cluster, file: Path) -> None:
        self.cluster = cluster
        self._file = file
        self._fleet = file.read_text()

    def ask(self, method: str, path: str, body: bytes = b"", *headers: bytes) -> tuple[int, bytes]:
        """Return status and answer of one request; the status is 0 where there was no answer."""
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n".encode()
        lines = b"".join(line + b"\r\n" for line in (b"Content-Type: application/json", *headers))
        sent = head + lines + b"\r\n" + body
        # it is a whole request, so there must be an answer
        received = provoke(self.cluster.port, sent, pause=PATIENCE_S)
        # of a header that is malformed its sender is shown what it sent
        assert not any(secret.encode() in received and secret.encode() not in sent for secret in SECRETS)
        # a request that is no HTTP is answered as HTTP/1.0
        return next(iter(statuses(received.replace(b"HTTP/1.0 ", b"HTTP/1.1 ", 1))), 0), received

    def state(self) -> Any:
        """Return the fleet as an admin's requests show it."""
        seen = []
        for path in ("/workers", "/tasks"):
            status, received = self.ask("GET", path, b"", bearer(ADMIN))
            assert status == 200
            seen.append(received.partition(b"\r\n\r\n")[2])
        return seen

    def check_alive(self) -> None:
        """Assert that every process runs, the router logged no defect of its own, and requests are answered."""
        assert self.cluster.router.poll() is None
        assert all(worker.alive for worker in self.cluster.workers.values())
        assert "defect" not in self.cluster.log
        assert not any(secret in self.cluster.log for secret in SECRETS)
        self.restore()
        body = {"model": "math", "input_ids": [1, 2], "sampling_params": {"max_new_tokens": 2}}
        assert self.ask("POST", "/generate", json.dumps(body).encode(), bearer(USER))[0] == 200

    def restore(self) -> None:
        """Go back to the fleet of the beginning, which the router must serve again."""
        self._file.write_text(self._fleet)
        asyncio.run(self._ready())

    async def _ready(self) -> None:
        import aiohttp

        async with aiohttp.ClientSession(base_url=self.cluster.url, headers={"X-API-Key": ADMIN}) as client:

            async def as_before() -> bool:
                async with client.get("/workers") as reply:
                    workers = {w["name"]: w["state"] for w in (await reply.json())["workers"]}
                return workers == {"math-0": "ready", "base-0": "ready"}

            await wait_until(as_before)


def bearer(key: str) -> bytes:
    return b"Authorization: Bearer " + key.encode()


def fleet_of(workers: dict[str, Worker], **router: Any) -> dict[str, Any]:
    return {
        "tasks": {"math": {"prefill": "math", "decode": "base"}},
        "pools": {pool: {"role": role, "model": pool} for pool, role in ROLES.items()},
        "workers": [{"name": n, "pool": n[:-2], "url": w.url} for n, w in workers.items()],
        "router": {"probe_interval": 0.1, "max_body_mb": 1, **router},
    }


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Worker]]:
    directory = tmp_path_factory.mktemp("workers")
    made = {f"{pool}-0": Worker(f"{pool}-0", role, f"none/{pool}", directory, {}, {}) for pool, role in ROLES.items()}
    for worker in made.values():
        worker.start()
    yield made
    for worker in made.values():
        worker.end()


@pytest.fixture(scope="module")
def guarded(workers: dict[str, Worker], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    home = tmp_path_factory.mktemp("guarded")
    keys = [{"name": "user", "key": USER, "tasks": ["math"]}, {"name": "ops", "key": ADMIN, "admin": True}]
    (home / "keys.yaml").write_text(json.dumps({"keys": keys}))
    (home / "admin.key").write_text(LAUNCHER)
    fleet = fleet_of(workers, api_keys=str(home / "keys.yaml")) | {"admin_key_file": str(home / "admin.key")}
    cluster = asyncio.run(begin(home, fleet, workers, key=ADMIN))
    try:
        yield Guarded(cluster, home / "fleet.json")
    finally:
        cluster.end_processes()


# --- keys -----------------------------------------------------------------------------------------------------------

VALUES: dict[str, bytes] = {
    "nothing": b"",
    "no key": b"Bearer",
    "an empty key": b"Bearer ",
    "another scheme": b"Basic " + ADMIN.encode(),
    "no scheme": ADMIN.encode(),
    "no space": b"Bearer" + ADMIN.encode(),
    "two keys": f"Bearer {ADMIN},{ADMIN}".encode(),
    "two words": f"Bearer {ADMIN} {ADMIN}".encode(),
    "the scheme twice": f"Bearer Bearer {ADMIN}".encode(),
    "a key and more": f"Bearer {ADMIN}x".encode(),
    "a part of a key": f"Bearer {ADMIN[:-1]}".encode(),
    "upper case": f"Bearer {ADMIN.upper()}".encode(),
    "quoted": f'Bearer "{ADMIN}"'.encode(),
    "its name": b"Bearer ops",
    "its hash": b"Bearer 5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8",
    "escaped": b"Bearer " + "".join(f"%{ord(c):02x}" for c in ADMIN).encode(),
    "in base64": b"Bearer YWRtaW4tMDEyMzQ1Njc4OWFiY2RlZg==",
    "a null in it": b"Bearer " + ADMIN[:5].encode() + b"\x00" + ADMIN[5:].encode(),
    "a null after it": b"Bearer " + ADMIN.encode() + b"\x00",
    "bytes that are no text": b"Bearer \xff\xfe\x80",
    "a homoglyph": f"Bearer \u0430{ADMIN[1:]}".encode(),
    "full width": b"Bearer " + "".join(chr(ord(c) + 0xFEE0) for c in ADMIN).encode(),
    "8 kB": b"Bearer " + b"a" * 8000,
    "100 kB": b"Bearer " + b"a" * 100_000,
    "a folded line": b"Bearer\r\n " + ADMIN.encode(),
}
junk = st.binary(max_size=60).map(lambda b: b.replace(b"\r", b"").replace(b"\n", b""))
keyish = st.one_of(
    junk,
    st.text(max_size=40).map(lambda t: t.encode(errors="replace").replace(b"\r", b"").replace(b"\n", b"")),
    st.tuples(st.sampled_from(SECRETS), st.integers(0, 20), st.binary(max_size=3)).map(
        lambda t: t[0][: t[1]].encode() + t[2].replace(b"\r", b"").replace(b"\n", b"")
    ),
)


@pytest.mark.parametrize("name", VALUES)
def test_corpus_of_keys_that_are_none(guarded: Guarded, name: str) -> None:
    for header in (b"Authorization: ", b"X-API-Key: "):
        if header == b"X-API-Key: " and name == "no scheme":
            continue  # there it is the key
        for path in ("/workers", "/generate"):
            status, _ = guarded.ask("GET", path, b"", header + VALUES[name])
            assert status in (400, 401, 431), name


@pytest.mark.invariant("I17")
@quick
@given(
    method=st.sampled_from(METHODS),
    path=st.sampled_from(ENDPOINTS),
    header=st.sampled_from([b"Authorization: Bearer ", b"Authorization: ", b"X-API-Key: ", b"authorization:bearer "]),
    value=keyish,
)
def test_without_a_key_nothing_is_done(guarded: Guarded, method: str, path: str, header: bytes, value: bytes) -> None:
    if any(secret.encode() in value for secret in SECRETS):
        return
    status, _ = guarded.ask(method, path, b'{"abort_all": true}', header + value)
    assert status in (400, 401), status


PATHS: dict[str, str] = {
    "a slash more": "//workers",
    "a slash after it": "/workers/",
    "a dot": "/./workers",
    "two dots": "/v1/../workers",
    "escaped": "/%77orkers",
    "escaped twice": "/%2577orkers",
    "an escaped slash": "/workers%2Fbase-0%2Fdrain",
    "an escaped slash first": "/%2Fworkers",
    "upper case": "/WORKERS",
    "a parameter": "/workers;x=1",
    "a query": "/workers?x=/health",
    "a fragment": "/workers#/health",
    "a whole url": "http://x/workers",
    "another host's": "http://127.0.0.1:1/workers",
    "a null": "/workers%00",
    "behind the open one": "/health/../workers",
    "behind the open one, escaped": "/health/%2e%2e/workers",
    "a backslash": "/health\\..\\workers",
    "a new line": "/workers%0a",
    "a space": "/workers%20",
    "unicode": "/w\u043erkers",
    "its key in the query": f"/workers?key={ADMIN}&api_key={ADMIN}&authorization=Bearer%20{ADMIN}",
}
NEW_WORKER = json.dumps({"name": "x-0", "pool": "math", "url": "http://127.0.0.1:1"}).encode()


@pytest.mark.invariant("I17")
@pytest.mark.parametrize("key", ["nobody", "a user's"])
@pytest.mark.parametrize("name", PATHS)
def test_no_spelling_of_a_path_opens_it(guarded: Guarded, name: str, key: str) -> None:
    headers = (bearer(USER),) if key == "a user's" else ()
    before = guarded.state()
    for method in ("GET", "POST", "PUT", "DELETE"):
        status, received = guarded.ask(method, PATHS[name], NEW_WORKER, *headers)
        assert status in (400, 401, 403, 404, 405), (method, status)
        assert b"base-0" not in received.partition(b"\r\n\r\n")[2]
    assert guarded.state() == before


numbers = st.integers(-(2**70), 2**70) | st.floats()
values = st.recursive(
    st.none() | st.booleans() | numbers | st.sampled_from(NAMES) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=6,
)
URLS = (
    "http://127.0.0.1:1",
    "http://h:99999",
    "http://h:x",
    "http://[::1",
    "http://",
    "http://a b",
    "ftp://h:1",
    "http://h/p",
)
URLS += ("http://" + "h" * 300, "http://é.invalid", "http://u:p@127.0.0.1:1", "http://127.0.0.1:0", "http://\udcff:1")
changes = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(NAMES) | values,
        "pool": st.sampled_from(NAMES) | values,
        "url": st.sampled_from(URLS) | values,
        "role": st.sampled_from(["prefill", "decode", "x"]) | values,
        "model": values,
        "draining": st.booleans() | values,
        "prefill": st.sampled_from(["math", "base", "new"]) | values,
        "decode": st.sampled_from(["math", "base", "new"]) | values,
        "weight": numbers,
        "max_requests": numbers,
        "max_tokens": numbers,
        "any_decoder": values,
        "force": values,
        "abort_all": values,
        "rid": values,
        "x": values,
    },
)
targets = st.one_of(
    st.sampled_from(ADMINS),
    st.builds(
        "/{}/{}".format,
        st.sampled_from(["workers", "pools", "tasks"]),
        st.sampled_from((*NAMES, "a/b", "%2f", "%00", "%ff")),
    ),
    st.builds("/workers/{}/{}".format, st.sampled_from(NAMES), st.sampled_from(["drain", "resume", "x"])),
    st.builds("/workers/{}?force={}".format, st.sampled_from(NAMES), st.sampled_from(["true", "false", "1", "%ff"])),
)


@quick
@given(method=st.sampled_from(METHODS), path=targets, body=changes | values)
def test_a_users_key_changes_nothing(guarded: Guarded, method: str, path: str, body: Any) -> None:
    status, _ = guarded.ask(method, path, json.dumps(body).encode(), bearer(USER))
    assert status == 403


def test_after_all_that_the_fleet_is_as_it_was(guarded: Guarded) -> None:
    before = json.loads(guarded.state()[0])
    assert {w["name"]: w["state"] for w in before["workers"]} == {"math-0": "ready", "base-0": "ready"}
    status, _ = guarded.ask("POST", "/abort_request", b'{"abort_all": true}', bearer(USER))
    assert status == 403
    guarded.check_alive()


# --- an admin who errs ----------------------------------------------------------------------------------------------


def no_failure(status: int) -> None:
    assert 200 <= status < 500, status


@quick
@given(method=st.sampled_from(("POST", "PUT", "DELETE")), path=targets, body=changes)
def test_no_change_that_an_admin_asks_for_is_a_failure(guarded: Guarded, method: str, path: str, body: Any) -> None:
    no_failure(guarded.ask(method, path, json.dumps(body).encode(), bearer(ADMIN))[0])


@quick
@given(
    name=st.text(max_size=12),
    pool=st.sampled_from(["math", "base"]),
    url=st.sampled_from(URLS) | st.text(max_size=12).map("http://{}".format),
)
def test_no_worker_that_is_added_is_a_failure(guarded: Guarded, name: str, pool: str, url: str) -> None:
    body = json.dumps({"name": name, "pool": pool, "url": url}).encode()
    no_failure(guarded.ask("POST", "/workers", body, bearer(ADMIN))[0])


@quick
@given(path=targets, body=st.binary(max_size=100))
def test_no_bytes_that_an_admin_sends_are_a_failure(guarded: Guarded, path: str, body: bytes) -> None:
    no_failure(guarded.ask("PUT", path, body, bearer(ADMIN))[0])
    no_failure(guarded.ask("POST", path, body, bearer(ADMIN))[0])


def test_after_all_changes_the_first_fleet_can_be_served_again(guarded: Guarded) -> None:
    guarded.restore()
    guarded.check_alive()


# --- TLS ------------------------------------------------------------------------------------------------------------


class Shielded:
    """A router with TLS."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, cert: Path, log: Path) -> None:
        self.port = port
        self._process = process
        self._log = log
        self._trusting = ssl.create_default_context(cafile=str(cert))
        self._trusting.check_hostname = False

    def hello(self) -> bytes:
        """Return the first flight of a right handshake."""
        coming, going = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = self._trusting.wrap_bio(coming, going)
        with suppress(ssl.SSLWantReadError):
            client.do_handshake()
        return going.read()

    def check_alive(self) -> None:
        """Check that the router runs, and answers a client with TLS."""
        assert self._process.poll() is None
        assert "defect" not in self._log.read_text()
        raw = socket.create_connection((HOST, self.port), timeout=PATIENCE_S)
        with raw, self._trusting.wrap_socket(raw) as s:
            s.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert statuses(receive_all(s)) == [200]


@pytest.fixture(scope="module")
def shielded(workers: dict[str, Worker], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shielded]:
    home = tmp_path_factory.mktemp("shielded")
    log = home / "router.log"
    cert, key = self_signed(home, "x")
    file = home / "fleet.json"
    file.write_text(json.dumps(fleet_of(workers, port=0, tls_cert=str(cert), tls_key=str(key))))
    with log.open("wb") as out:
        process = subprocess.Popen(router_command(str(file)), stderr=subprocess.PIPE)
        assert process.stderr is not None
        listening = json.loads(process.stderr.readline())
        # what it writes from now on goes to a file, so that no reader is needed
        copying = subprocess.Popen(["cat"], stdin=process.stderr, stdout=out)
    yield Shielded(process, int(listening["url"].rsplit(":", 1)[1]), cert, log)
    process.kill()
    process.wait(60)
    process.stderr.close()
    copying.wait(60)


def no_answer_in_plain(received: bytes) -> None:
    assert b"HTTP/1.1 2" not in received
    assert not any(name in received for name in (b"math", b"base-0"))


@fewer
@given(raw=st.binary(max_size=300))
def test_bytes_that_are_no_handshake(shielded: Shielded, raw: bytes) -> None:
    no_answer_in_plain(provoke(shielded.port, raw))


@fewer
@given(
    kind=st.integers(20, 24),
    version=st.binary(min_size=2, max_size=2),
    length=st.integers(0, 2**16 - 1),
    body=st.binary(max_size=80),
)
def test_records_of_any_kind(shielded: Shielded, kind: int, version: bytes, length: int, body: bytes) -> None:
    no_answer_in_plain(provoke(shielded.port, bytes([kind]) + version + length.to_bytes(2, "big") + body))


@fewer
@given(
    cut=st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6),
    more=st.binary(max_size=60),
)
def test_handshakes_that_were_damaged(
    shielded: Shielded, cut: float, flips: list[tuple[float, int]], more: bytes
) -> None:
    hello = bytearray(shielded.hello())
    for where, byte in flips:
        hello[min(int(where * len(hello)), len(hello) - 1)] = byte
    no_answer_in_plain(provoke(shielded.port, bytes(hello[: int(cut * len(hello)) + 1]) + more))


GARBAGE: dict[str, bytes] = {
    "plain http": b"GET /tasks HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "http/2 in plain": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "ssl 2": b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + bytes(35),
    "an empty record": b"\x16\x03\x01\x00\x00",
    "a record that never ends": b"\x16\x03\x01\xff\xff" + b"\x01" * 1000,
    "an alert": b"\x15\x03\x03\x00\x02\x02\x28",
    "data before a handshake": b"\x17\x03\x03\x00\x05hello",
    "a heartbeat that asks for more than it sent": b"\x18\x03\x02\x00\x03\x01\x40\x00",
    "nothing": b"",
    "a megabyte of zeros": bytes(1 << 20),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_corpus_at_a_tls_port(shielded: Shielded, name: str) -> None:
    no_answer_in_plain(provoke(shielded.port, GARBAGE[name]))
    shielded.check_alive()


def test_handshakes_that_stop_midway_hold_nobody_up(shielded: Shielded) -> None:
    hello = shielded.hello()
    open_ones = [socket.create_connection((HOST, shielded.port), timeout=PATIENCE_S) for _ in range(50)]
    try:
        for i, s in enumerate(open_ones):
            s.sendall(hello[: i * len(hello) // len(open_ones)])
        shielded.check_alive()
    finally:
        for s in open_ones:
            s.close()
    shielded.check_alive()


@pytest.mark.invariant("I16")
def test_every_process_lives(guarded: Guarded, shielded: Shielded) -> None:
    guarded.check_alive()
    shielded.check_alive()
