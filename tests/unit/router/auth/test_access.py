"""API keys and TLS: which requests pass, which errors they receive, and no secret in any output."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import stat
from pathlib import Path
from typing import Any, get_args

import aiohttp
import orjson
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.bench.polling import wait_until
from sun_sglang.contracts.fleet_file import FLEET_FILE, Fleet, FleetError
from sun_sglang.errors import TopologyError, UserError
from sun_sglang.launch.planning.plan import ADMIN_KEY
from sun_sglang.launch.router_access import new_key, read_access
from sun_sglang.launch.router_client import RouterClient
from sun_sglang.router.auth.access import AccessControl, AccessRule, load_access_control, load_tls_context
from sun_sglang.router.auth.api_keys import KeyFileError, Keyring, KeySpec, TokenBucket, load_keys
from sun_sglang.router.errors import ApiError
from sun_sglang.topology import Router
from sun_sglang.topology_file import parse_topology
from tests.support.certificate import self_signed
from tests.unit.router.conftest import SUN, Start, System
from tests.unit.router.fake_worker import Fault

ALICE, BOB, ROOT = "alice-" + "a" * 20, "bob-" + "b" * 20, "root-" + "r" * 20
KEYS = {
    "keys": [
        {"name": "alice", "key": ALICE, "tasks": ["math"]},
        {"name": "bob", "sha256": hashlib.sha256(BOB.encode()).hexdigest()},
        {"name": "root", "key": ROOT, "admin": True},
    ]
}
ASK = {"model": "math", "text": "hi"}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
async def locked(start: Start, tmp_path: Path) -> System:
    file = tmp_path / "keys.yaml"
    file.write_text(yaml.safe_dump(KEYS))
    system: System = await start(SUN, {"math": 1, "tool": 1, "base": 1}, router={"api_keys": str(file)})
    return system


# --- the file -------------------------------------------------------------------------------------------------------


def test_keys_come_from_a_file_and_from_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(yaml.safe_dump(KEYS))
    more = '{"keys": [{"name": "carol", "key": "carol-cccccccccccccccc"}]}'
    assert [k.name for k in load_keys(str(file), {"SUN_API_KEYS": more})] == ["alice", "bob", "root", "carol"]
    assert load_keys(None, {}) == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("keys: []", "keys"),
        ("keys: [{name: a, key: short}]", "keys.0.key"),
        ("keys: [{name: a}]", "give either `key` or `sha256`"),
        ("keys: [{name: a, key: 0123456789abcdef, sha256: x}]", "keys.0.sha256"),
        ("keys: [{name: a, key: s3cret-0123456789, colour: red}]", "keys.0.colour"),
        ("keys: [{name: a, key: s3cret-0123456789}, {name: a, key: s3cret-9876543210}]", "same name"),
        ("keys: [{name: a, key: s3cret-0123456789}, {name: b, key: s3cret-0123456789}]", "same key"),
        ("keys: [{name: a, key: s3cret-01234567 89}]", "keys.0.key"),
        ("keys: [{name: a, key: s3cret-0123456789, requests_per_minute: 0}]", "requests_per_minute"),
        ("keys: [s3cret-0123456789: }", "not valid YAML"),
        ("- s3cret-0123456789", "dictionary"),
    ],
)
def test_a_wrong_file_is_one_line_without_a_key_in_it(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(text)
    with pytest.raises(KeyFileError) as e:
        load_keys(str(file), {})
    assert message in str(e.value)
    assert str(file) in str(e.value)
    assert "s3cret" not in str(e.value)
    assert e.value.__cause__ is None
    assert "\n" not in str(e.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="cannot be read"):
        load_keys(str(tmp_path / "none"), {})


@given(st.text(max_size=40))
def test_only_the_whole_key_is_found(token: str) -> None:
    ring = Keyring([KeySpec.model_validate(k) for k in KEYS["keys"]])
    found = ring.find(token)
    assert (found is not None) == (token in (ALICE, BOB, ROOT))
    for secret in (ALICE, BOB, ROOT):
        assert ring.find(secret + token) is None or token == ""


@given(st.floats(1, 6000), st.lists(st.tuples(st.floats(0, 30), st.floats(0.1, 500)), max_size=50))
def test_a_bucket_lets_through_no_more_than_its_rate(rate: float, steps: list[tuple[float, float]]) -> None:
    bucket, now, taken, last = TokenBucket(rate), 0.0, 0.0, 0.0
    bucket.wait(now)
    for pause, amount in steps:
        now += pause
        if bucket.wait(now) == 0:
            bucket.spend(amount)
            taken, last = taken + amount, amount
    # what it held, what came in, and the last one, which may go into debt
    assert taken <= max(1.0, rate / 6) + now * rate / 60 + last + 1e-6


def test_a_bucket_says_when_there_is_room_again() -> None:
    bucket = TokenBucket(60)
    for _ in range(10):
        assert bucket.wait(5.0) == 0
        bucket.spend(1)
    assert bucket.wait(5.0) == pytest.approx(1.0)
    assert bucket.wait(6.0) == 0


# --- who may do what ------------------------------------------------------------------------------------------------

RULES: tuple[AccessRule, ...] = get_args(AccessRule)


def test_admin_rule_is_satisfied_by_an_admin_key_alone() -> None:
    access = AccessControl(tuple(KeySpec.model_validate(k) for k in KEYS["keys"]), None)
    for headers, status in (({}, 401), (bearer("x" * 30), 401), (bearer(ALICE), 403)):
        with pytest.raises(ApiError) as e:
            access.check("admin", headers)
        assert e.value.status == status
        assert ALICE not in e.value.message
    root = access.check("admin", {"x-api-key": "no", "Authorization": f"bearer {ROOT}"})
    assert root is not None
    assert root.name == "root"


def test_without_keys_everyone_may_do_everything() -> None:
    access = AccessControl((), "an-internal-key-that-means-nothing")
    assert all(access.check(rule, {}) is None for rule in RULES)


async def test_requests_need_a_key_that_may_call_the_task(locked: System) -> None:
    for headers in ({}, bearer(""), bearer("wrong-key-wrong-key"), {"Authorization": f"Basic {ALICE}"}):
        status, reply = await locked.post("/generate", ASK, headers=headers)
        assert (status, reply["error"]["code"], reply["error"]["type"]) == (
            401,
            "invalid_api_key",
            "authentication_error",
        )
    assert (await locked.post("/generate", ASK, headers=bearer(ALICE)))[0] == 200
    assert (await locked.post("/generate", ASK, headers={"X-API-Key": ALICE}))[0] == 200
    assert (await locked.post("/generate", {**ASK, "model": "tool"}, headers=bearer(BOB)))[0] == 200
    async with locked.client.get("/v1/models", headers=bearer(ALICE)) as r:
        assert [m["id"] for m in (await r.json())["data"]] == ["math"]
    assert len(locked["math-0"].requests) == 2
    assert (await locked.get("/health"))[0] == 200
    assert all(ALICE not in line for line in locked.log.getvalue().splitlines())


async def test_an_abort_is_for_ones_own_requests(locked: System) -> None:
    locked["base-0"].fault = Fault(hang_after=2)
    asked = asyncio.create_task(locked.post("/generate", {**ASK, "rid": "mine"}, headers=bearer(ALICE)))
    await wait_until(lambda: locked["base-0"].running)
    async with locked.client.post("/abort_request", json={"rid": "mine"}, headers=bearer(BOB)) as r:
        assert r.status == 200
    assert not locked["base-0"].aborts
    async with locked.client.post("/abort_request", json={"abort_all": True}, headers=bearer(ALICE)) as r:
        assert r.status == 403
    assert not locked["base-0"].aborts
    await locked.client.post("/abort_request", json={"rid": "mine"}, headers=bearer(ALICE))
    assert (await asked)[0] == 200
    await locked.quiet()


async def test_a_key_over_its_rate_is_told_when_to_come_back(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    slow = {"name": "slow", "key": ALICE, "requests_per_minute": 0.1}
    file.write_text(yaml.safe_dump({"keys": [slow, {"name": "wordy", "key": BOB, "tokens_per_minute": 2}]}))
    system: System = await start(SUN, {"math": 1, "tool": 1, "base": 1}, router={"api_keys": str(file)})
    long = {**ASK, "sampling_params": {"max_new_tokens": 100}}
    for key, body, least in ((ALICE, ASK, 300), (BOB, long, 1000)):
        assert (await system.post("/generate", body, headers=bearer(key)))[0] == 200
        async with system.client.post("/generate", json=body, headers=bearer(key)) as r:
            assert (r.status, (await r.json())["error"]["code"]) == (429, "rate_limit_exceeded")
            assert int(r.headers["Retry-After"]) > least
    assert system.metric("sun_turned_away_total", task="math", why="rate") == 2


async def test_nothing_secret_is_told(locked: System) -> None:
    for path in ("/server_info", "/tasks", "/v1/models", "/metrics", "/model_info"):
        async with locked.client.get(path, headers=bearer(ROOT)) as r:
            assert r.status == 200, path
            text = await r.text()
        assert not any(secret in text for secret in (ALICE, BOB, ROOT, "s3cret")), path
    for worker in locked.workers.values():
        assert all(ALICE not in orjson.dumps(body).decode() for _, body in worker.requests)


# --- the launcher's own way in --------------------------------------------------------------------------------------


def test_the_launchers_key_is_the_users_alone(tmp_path: Path) -> None:
    assert read_access(tmp_path) == (None, None)
    new_key(tmp_path / ADMIN_KEY)
    first = (tmp_path / "admin.key").read_text()
    assert stat.S_IMODE((tmp_path / "admin.key").stat().st_mode) == 0o600
    new_key(tmp_path / ADMIN_KEY)
    assert (tmp_path / "admin.key").read_text() != first


@pytest.mark.parametrize(
    "fleet",
    [None, b"", b"{", b"[]", b'{"router": 3}', b'{"router": {"tls_cert": 3}}', b'{"router": {"tls_cert": "/no/such"}}'],
)
def test_a_fleet_file_that_cannot_be_read_leaves_the_launchers_key(tmp_path: Path, fleet: bytes | None) -> None:
    new_key(tmp_path / ADMIN_KEY)
    if fleet is not None:
        (tmp_path / "fleet.json").write_bytes(fleet)
    assert read_access(tmp_path) == ((tmp_path / ADMIN_KEY).read_text(), None)


def test_an_admin_key_file_that_is_not_there(tmp_path: Path) -> None:
    fleet = {"tasks": {"a": {"prefill": "p", "decode": "d"}}, "workers": [], "admin_key_file": str(tmp_path / "no")}
    pools = {"p": {"role": "prefill", "model": "x"}, "d": {"role": "decode", "model": "x"}}
    with pytest.raises(FleetError, match="admin_key_file"):
        load_access_control(Fleet.model_validate({**fleet, "pools": pools}), {})


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return self_signed(tmp_path_factory.mktemp("tls"), "router.test")


@pytest.mark.parametrize("added", [{"router": {"later": 1}}, {"later": 1}, {"pools": {}, "workers": 3}])
def test_read_access_of_a_fleet_file_with_other_keys_pins_the_certificate(
    tmp_path: Path, certificate: tuple[Path, Path], added: dict[str, Any]
) -> None:
    new_key(tmp_path / ADMIN_KEY)
    router = {"tls_cert": str(certificate[0]), "tls_key": str(certificate[1]), **added.get("router", {})}
    (tmp_path / FLEET_FILE).write_bytes(orjson.dumps({**added, "router": router}))
    der = ssl.PEM_cert_to_DER_cert(certificate[0].read_text())
    assert read_access(tmp_path).fingerprint == hashlib.sha256(der).digest()


async def test_tls_and_keys_and_the_launcher_still_sees_the_tasks(
    start: Start, tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump(KEYS))
    new_key(tmp_path / ADMIN_KEY)
    router = {"tls_cert": str(certificate[0]), "tls_key": str(certificate[1])}
    (tmp_path / FLEET_FILE).write_bytes(orjson.dumps({"router": router}))
    system: System = await start(
        SUN,
        {"math": 1, "tool": 1, "base": 1},
        router={**router, "api_keys": str(tmp_path / "keys.yaml")},
        admin_key_file=str(tmp_path / "admin.key"),
    )
    url = system.router.url
    assert url.startswith("https://")
    async with RouterClient(url, read_access(tmp_path)) as client:
        report = await client.tasks()
    assert report is not None
    assert report.all_ready
    async with RouterClient(url, read_access(tmp_path)._replace(fingerprint=b"\0" * 32)) as client:
        assert await client.tasks() is None
    trusting = ssl.create_default_context(cafile=str(certificate[0]))
    trusting.check_hostname = False
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{url}/generate", json=ASK, headers=bearer(ALICE), ssl=trusting) as r:
            assert r.status == 200
        with pytest.raises(aiohttp.ClientError):
            await session.get(url.replace("https", "http") + "/health")


def test_files_of_tls_that_are_wrong(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    cert, key = map(str, certificate)
    assert load_tls_context(Router()) is None
    assert load_tls_context(Router(tls_cert=cert, tls_key=key)) is not None
    for wrong in ({"tls_cert": str(tmp_path / "no"), "tls_key": key}, {"tls_cert": key, "tls_key": cert}):
        with pytest.raises(UserError, match=r"router\.tls_cert"):
            load_tls_context(Router(**wrong))


def test_paths_in_the_topology_are_relative_to_it(tmp_path: Path) -> None:
    pools = "pools: {p: {role: prefill, model: org/m}, d: {role: decode, model: org/m}}\n"
    text = pools + "tasks: {t: {prefill: p, decode: d}}\nrouter: {api_keys: k.yaml, tls_cert: c.pem"
    router: Any = parse_topology(text + ", tls_key: k.pem}", base=tmp_path).router
    assert router.api_keys == str(tmp_path / "k.yaml")
    assert (router.tls_cert, router.tls_key) == (str(tmp_path / "c.pem"), str(tmp_path / "k.pem"))
    with pytest.raises(TopologyError, match=r"router\.tls_key: is required"):
        parse_topology(text + "}", base=tmp_path)
