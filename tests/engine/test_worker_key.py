"""A stranger who reaches a worker's ports can do nothing over HTTP and over KV transfer's control socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace

import httpx
import psutil
import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from sun_sglang.bench.polling import wait_until
from sun_sglang.contracts.worker_key import WORKER_KEY_VARIABLE
from sun_sglang.patches.transfer.keyed_transfer import manager_connects_with_key
from tests.engine.conftest import BUSY, Deployment, Reference, generate, some_tokens
from tests.engine.watch import SOON, is_whole
from tests.support.sglang_questions import SGLangQuestions

ROUTES = [
    ("GET", "/sun/worker"),
    ("GET", "/health"),
    ("GET", "/health_generate"),
    ("GET", "/server_info"),
    ("GET", "/docs"),
    ("OPTIONS", "/generate"),
    ("POST", "/generate"),
    ("POST", "/abort_request"),
    ("POST", "/flush_cache"),
    ("POST", "/update_weights_from_disk"),
    ("POST", "/release_memory_occupation"),
    ("POST", "/pause_generation"),
    ("GET", "/no/such/route"),
]


@pytest.mark.invariant("I18")
@pytest.mark.parametrize("worker", ["llama-a-0", "llama-base-0"])
async def test_a_worker_answers_401_to_everybody_without_its_key(deployment: Deployment, worker: str) -> None:
    url = deployment.process(worker).url
    async with httpx.AsyncClient(timeout=60) as stranger:
        for method, path in ROUTES:
            reply = await stranger.request(method, url + path, json={"abort_all": True})
            assert reply.status_code == 401, (method, path)
        info = await stranger.get(f"{url}/server_info", headers=deployment.headers)
    assert info.status_code == 200
    assert deployment.key not in info.text
    assert deployment.key not in deployment.process(worker).log.read_text(errors="replace")


@pytest.mark.invariant("I18")
async def test_a_strangers_message_on_the_transfer_socket_is_dropped(
    deployment: Deployment, client: httpx.AsyncClient, task_references: dict[str, Reference]
) -> None:
    """Without the key one such message ends the thread that negotiates transfers, and every later request hangs."""
    ports = list(transfer_ports(deployment, "llama-a-0"))
    assert ports
    context = zmq.Context()
    for port in ports:
        for message in ([b"\xff\xfe"], [b"ABORT", b"no number"]):
            with context.socket(zmq.PUSH) as push, push.get_monitor_socket() as events:
                push.setsockopt(zmq.LINGER, 0)
                push.connect(f"tcp://127.0.0.1:{port}")
                push.send_multipart(message)
                assert not is_heard(events)
                push.disable_monitor()
    context.term()
    prompt = some_tokens(90, 30)
    reply = await generate(client, "llama-a", prompt, 8)
    task_references["llama-a"].check(prompt, reply["output_ids"])


async def test_a_worker_that_loses_a_thread_of_kv_transfer_ends_and_comes_back(
    deployment: Deployment,
    client: httpx.AsyncClient,
    task_references: dict[str, Reference],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It reported healthy before, and each request waited for its deadline. Here a message with the key ends the
    thread, as a defect would."""
    monkeypatch.setenv(WORKER_KEY_VARIABLE, deployment.key)
    before, ports = deployment.process("llama-a-0").pid, list(transfer_ports(deployment, "llama-a-0"))
    assert ports
    with ExitStack() as sockets:
        context = sockets.enter_context(zmq.Context())
        manager_connects_with_key(SimpleNamespace(_zmq_ctx=context))
        for port in ports:
            push = sockets.enter_context(context.socket(zmq.PUSH))
            push.connect(f"tcp://127.0.0.1:{port}")
            push.send_multipart([b"\xff\xfe"])
            # when it is closed, which is once the message has done its work
            push.setsockopt(zmq.LINGER, 0)
        await wait_until(
            lambda: deployment.process("llama-a-0").pid not in (before, None), "it is started again", within=BUSY
        )
    await wait_until(lambda: is_whole(client, deployment), "every path proven", within=BUSY)
    prompt = some_tokens(91, 30)
    reply = await generate(client, "llama-a", prompt, 8)
    task_references["llama-a"].check(prompt, reply["output_ids"])


def test_socket_between_pipeline_ranks_hears_holders_of_the_key_alone(ask_sglang: SGLangQuestions) -> None:
    found = ask_sglang(
        "tests.engine.answers:pipeline_socket", env={"SUN_WORKER_KEY": "k" * 40, "SGLANG_HOST_IP": "127.0.0.1"}
    )
    if found is None:
        pytest.skip("this SGLang has no socket between pipeline ranks")
    assert found == {"stranger is heard": False, "state of the rank": 4}


def transfer_ports(deployment: Deployment, worker: str) -> Iterator[int]:
    """Yield the ports of a worker's scheduler that implement ZeroMQ's protocol."""
    for child in psutil.Process(deployment.process(worker).pid).children(recursive=True):
        for connection in child.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and speaks_zmtp(connection.laddr.port):
                yield connection.laddr.port


def speaks_zmtp(port: int) -> bool:
    """Return whether a port sends ZeroMQ's greeting to a new connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=SOON) as peer:
        peer.sendall(b"\xff\0\0\0\0\0\0\0\x01\x7f\x03")
        # a busy machine may take seconds; the ports of other protocols say nothing
        peer.settimeout(5)
        try:
            return peer.recv(10) == b"\xff\0\0\0\0\0\0\0\x01\x7f"
        except (TimeoutError, ConnectionError):
            return False


def is_heard(events: zmq.Socket[bytes]) -> bool:
    """Wait for the end of a handshake; return whether the other side accepted it."""
    refused = {
        zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
        zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
        zmq.EVENT_HANDSHAKE_FAILED_AUTH,
    }
    while events.poll(60_000):
        event = recv_monitor_message(events)["event"]
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            return True
        if event in refused:
            return False
    raise AssertionError("the handshake did not end")
