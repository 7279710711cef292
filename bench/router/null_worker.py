"""A worker that answers at almost no cost, so that a benchmark measures the load balancer before it.

    python -m sun_sglang.bench.router.null_worker --role decode --port 30001

It implements the part of SGLang's HTTP API that load balancers use, on an asyncio protocol: `POST /generate`, streamed
or not, streamed chat completions, the worker's card, and 200 for every other path. An answer has the requested number
of tokens. A stream sends one event for each token, one token every `input_ids[0]` microseconds (of a chat: the content
of its message), and begins at a random phase of that period, so that streams do not send in step; a whole answer is
sent at once. A stream with the mark of `contracts/replay.py` reports its tokens.
"""

from __future__ import annotations

import asyncio
import random
import signal
from typing import Annotated, Any, Literal, cast

import orjson
import typer
import uvloop

from sun_sglang.contracts.replay import read_replay, tokens_comment
from sun_sglang.contracts.worker_card import WORKER_CARD_PATH, Identity, WorkerCard
from sun_sglang.emulator.protocol.replies import DONE, Progress, ReplyBuilder
from sun_sglang.emulator.protocol.reply_shapes import SHAPES
from sun_sglang.sglang_versions import NEWEST_VERSION

VOCAB = 1 << 20
_CARD_PATH = WORKER_CARD_PATH.encode()
# an event of a stream has 288 bytes, which earlier reports measured too
_TEXT = " text so far,"
_CHAT = "/v1/chat/completions"
# a token id of as many digits as most have
_TOKEN = 12345
_BUILD = ReplyBuilder(SHAPES[NEWEST_VERSION])


def card(role: Literal["prefill", "decode"]) -> bytes:
    """Return the worker's card as JSON."""
    identity = Identity(
        architecture="LlamaForCausalLM",
        num_layers=1,
        num_kv_heads=1,
        head_dim=64,
        vocab_size=VOCAB,
        rope="{}",
        kv_dtype="bfloat16",
        page_size=1,
        tp_size=1,
        tokenizer="none",
        chat_template="",
        sglang="none",
        weights="none",
    )
    bootstrap = 8998 if role == "prefill" else None
    made = WorkerCard(
        role=role,
        incarnation=f"{random.getrandbits(64):016x}",
        bootstrap_port=bootstrap,
        identity=identity,
        patches=(),
        max_input_tokens=32768,
        context_length=32768,
        kv_tokens=1 << 20,
    )
    return made.model_dump_json().encode()


def result(rid: str, prompt: int, made: int, *, ended: bool) -> bytes:
    """Return a reply of SGLang's `/generate`, or one event's data, as JSON.

    Args:
        rid: id of the request.
        prompt: tokens of the prompt.
        made: tokens generated so far.
        ended: whether the generation has finished.
    """
    finish = {"type": "length", "length": made} if ended else None
    progress = Progress(request_id=rid, prompt_tokens=prompt, tokens=[0] * made, text=_TEXT, finish=finish)
    return orjson.dumps(_BUILD.generate(progress))


def chat_event(rid: str, *, ended: bool) -> bytes:
    """Return an event of a streamed chat completion: a piece of the content, or the finish reason.

    Args:
        rid: id of the request.
        ended: whether the generation has finished.
    """
    finish = {"type": "length", "length": 1} if ended else None
    progress = Progress(request_id=rid, prompt_tokens=16, tokens=[_TOKEN], text=_TEXT, finish=finish, model="bench")
    return _BUILD.chat_events(progress, text="" if ended else _TEXT, first=False)[0]


class Responder(asyncio.Protocol):
    """One connection of a load balancer.

    Args:
        role: a decode worker sends streams at their pace; a prefill worker sends only the last event.
        own_card: the body of `GET /sun/worker`.
    """

    def __init__(self, role: Literal["prefill", "decode"], own_card: bytes) -> None:
        self._streams = role == "decode"
        self._card = own_card
        self._buffer = b""
        self._transport: asyncio.Transport
        self._gone = False
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        # uvloop's transports are not subclasses of asyncio's
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the streams under way."""
        self._gone = True

    def data_received(self, data: bytes) -> None:
        """Answer every request that has arrived completely."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            length, at = 0, head.find(b"content-length:")
            if at >= 0:
                length = int(head[at + 15 :].split(b"\r\n", 1)[0])
            if len(self._buffer) < end + 4 + length:
                return
            path = self._buffer[: self._buffer.index(b"\r\n")].split(b" ")[1]
            body, self._buffer = self._buffer[end + 4 : end + 4 + length], self._buffer[end + 4 + length :]
            self._answer(path, body)

    def _answer(self, path: bytes, body: bytes) -> None:
        if path == _CARD_PATH:
            self._whole(self._card)
        elif path not in (b"/generate", _CHAT.encode()):
            self._whole(b"{}")
        else:
            asked = orjson.loads(body)
            if asked.get("stream"):
                self._stream(asked)
            elif path != b"/generate":
                # the prefill leg of a chat: load balancers read nothing else of it
                self._whole(orjson.dumps({"id": asked.get("rid"), "choices": [], "usage": {}}))
            else:
                self._whole(self._result(asked))

    def _result(self, asked: dict[str, Any]) -> bytes:
        made = asked["sampling_params"]["max_new_tokens"]
        return result(asked.get("rid") or "none", len(asked["input_ids"]), made, ended=True)

    def _whole(self, body: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        self._transport.write(head + body)

    def _stream(self, asked: dict[str, Any]) -> None:
        rid = asked.get("rid") or "none"
        if "messages" in asked:
            left, period = asked["max_tokens"], int(asked["messages"][0]["content"]) / 1e6
            one, end = (chat_event(rid, ended=ended) for ended in (False, True))
        else:
            prompt, left = asked["input_ids"], asked["sampling_params"]["max_new_tokens"]
            period = prompt[0] / 1e6
            one = b"data: " + result(rid, len(prompt), 1, ended=False) + b"\n\n"
            end = b"data: " + result(rid, len(prompt), left, ended=True) + b"\n\n"
        if read_replay(asked.get("extra_key")).tokens is not None:
            one, end = (tokens_comment([_TOKEN]) + event for event in (one, end))
        last = _chunk(end) + _chunk(DONE) + b"0\r\n\r\n"
        event = _chunk(one)
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        if self._streams:
            due = self._loop.time() + random.random() * period
            self._loop.call_at(due, self._tick, event, last, left - 1, due, period)
        else:
            self._transport.write(last)

    def _tick(self, event: bytes, last: bytes, left: int, due: float, period: float) -> None:
        if self._gone:
            return
        if left <= 0:
            self._transport.write(last)
            return
        self._transport.write(event)
        # a worker that fell behind does not catch up: the benchmark counts how many chunks get through
        due = max(due + period, self._loop.time())
        self._loop.call_at(due, self._tick, event, last, left - 1, due, period)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n" % len(data) + data + b"\r\n"


async def serve(role: Literal["prefill", "decode"], port: int) -> None:
    """Listen on a port of 127.0.0.1 until SIGTERM."""
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, asked.set)
    own = card(role)
    await loop.create_server(lambda: Responder(role, own), "127.0.0.1", port, backlog=2048)
    await asked.wait()


def main(role: Annotated[str, typer.Option()], port: Annotated[int, typer.Option()]) -> None:
    """Run one worker."""
    assert role in ("prefill", "decode")
    uvloop.run(serve("prefill" if role == "prefill" else "decode", port))


if __name__ == "__main__":
    typer.run(main)
