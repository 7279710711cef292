"""A fake of a PD worker pair, for the router's tests: SGLang's protocol over real sockets, with no model behind it.

It behaves as SGLang in these points: a decode worker answers only if a prefill worker was given the same room; the
first token comes from the prefill worker, or from the decode worker if the request has the mark; given tokens are
repeated, and the tokens of a marked stream reported; aborts match by prefix; a namespace has its own cache; reply
shapes are SGLang's. Tokens are digests, so an answer shows which weights made it. Everything else is invented.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

import orjson
from aiohttp import web

from sun_sglang.contracts.adapters_report import ADAPTERS_PATH
from sun_sglang.contracts.first_token import HOOK as FIRST_TOKEN_HOOK
from sun_sglang.contracts.first_token import ONE_TOKEN, read_mark
from sun_sglang.contracts.module import MODULES_PATH, module_in
from sun_sglang.contracts.replay import HOOK as REPLAY_HOOK
from sun_sglang.contracts.replay import read_replay, tokens_comment
from sun_sglang.contracts.scheme import Side
from sun_sglang.contracts.token_count import TOKEN_COUNT_PATH, TokenCount
from sun_sglang.contracts.worker_card import WORKER_CARD_PATH, Identity, PatchReport, WorkerCard
from sun_sglang.emulator.protocol.replies import DONE
from sun_sglang.topology import Role
from tests.unit.router.fake_adapters import FakeAdapters
from tests.unit.router.fake_modules import FakeModules
from tests.unit.router.fake_replies import FakeReplies, prompt_of, wanted

VOCAB = 50_000
ABORTED = {"type": "abort", "message": "aborted"}
IDENTITY = Identity(
    architecture="LlamaForCausalLM",
    num_layers=2,
    num_kv_heads=2,
    head_dim=16,
    vocab_size=VOCAB,
    rope="{}",
    kv_dtype="float32",
    page_size=1,
    tp_size=1,
    tokenizer="t" * 16,
    chat_template="",
    sglang="1.0",
    weights="",
)
HOOK = PatchReport(name="prompt-only-cache", target="a.b.c", state="applied")
SPLIT = PatchReport(name=FIRST_TOKEN_HOOK, target="a.b.d", state="applied")
REPLAYS = PatchReport(name=REPLAY_HOOK, target="a.b.e", state="applied")


def token(*parts: object) -> int:
    """Return a token that depends on all of the parts, such as weights, prompt and position."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big") % VOCAB


def expected(prefill: str, decode: str, prompt: list[int], count: int, *, first_token: Side = "prefill") -> list[int]:
    """Return the tokens that a pair with these weights generates for a prompt."""
    own = [token(prefill, decode, prompt, i) for i in range(count)]
    return own if first_token == "decode" else [token(prefill, prompt), *own[1:]]


@dataclass
class Fault:
    """A fault of a worker, and the number of requests that it applies to.

    `drop`: one connection closes. `die`: the worker is gone. `replaced`: it is gone, and another process listens at
    once. `writes`: a decode worker streams this, connects to no prefill worker, and then ends the stream, or keeps it
    open where `hang_after` is set. `endless`: a 200 whose body has no end. `wait`: all this happens once the event is
    set.
    """

    status: int = 0
    body: bytes = b'{"error":{"message":"made to fail"}}'
    abort: dict[str, Any] | None = None
    drop: bool = False
    die: bool = False
    replaced: bool = False
    wait: asyncio.Event | None = None
    endless: bool = False
    die_after: int | None = None
    hang: bool = False
    hang_after: int | None = None
    error_after: int | None = None
    writes: tuple[bytes, ...] | None = None
    times: int = 1_000_000


@dataclass
class Rooms:
    """The meeting point of prefill and decode workers: the content of each room, which the prefill worker sets."""

    open: dict[int, asyncio.Future[dict[str, Any]]] = field(default_factory=dict)
    used: list[int] = field(default_factory=list)

    def meet(self, room: int) -> asyncio.Future[dict[str, Any]]:
        return self.open.setdefault(room, asyncio.get_running_loop().create_future())


class FakeWorker:
    """One worker. `stop` and `start` again are a restart."""

    def __init__(self, role: Role, weights: str, rooms: Rooms, **card: Any) -> None:
        self.role = role
        self.weights = weights
        self.rooms = rooms
        self.fault: Fault | None = None
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.names: list[tuple[str, int]] = []
        self.aborts: list[dict[str, Any]] = []
        self.running: dict[str, asyncio.Event] = {}
        self.flushes = 0
        self.written = 0
        self.looked = 0
        self.load: dict[str, int] = {}
        self.batches = False
        self.counted: list[dict[str, Any]] = []
        self.silent_counts = False
        self.bad_count: int | None = None
        self.info: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None
        self.info_headers: list[dict[str, str]] = []
        self.cache: dict[str, set[tuple[int, ...]]] = {}
        self.stepped = asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()
        self.port = 0
        self.restarts = 0
        self.card_changes = card
        self.raw_card: bytes | None = None
        self.endless_card = False
        self.silent_cards = False
        self.cards_asked = 0
        self.canaries = 0
        self.canary_fault: Fault | None = None
        self.ignores_mark = False
        self.ignores_tokens = False
        # streams that hung after some tokens
        self.hanging = 0
        # tokens of one event
        self.step = 1
        self.adapters = FakeAdapters()
        self.modules = FakeModules()
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server
        self._forever = asyncio.Event()

    # --- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_get(WORKER_CARD_PATH, self._card)
        for path in ("/generate", "/v1/completions", "/v1/chat/completions"):
            app.router.add_post(path, self._generate)
        app.router.add_get(ADAPTERS_PATH, self.adapters.report)
        app.router.add_post("/load_lora_adapter", self.adapters.load)
        app.router.add_post("/unload_lora_adapter", self.adapters.unload)
        app.router.add_get(MODULES_PATH, self.modules.report)
        app.router.add_post(MODULES_PATH, self.modules.give)
        app.router.add_delete(MODULES_PATH + "/{revision}", self.modules.take)
        app.router.add_post("/abort_request", self._abort)
        app.router.add_post(TOKEN_COUNT_PATH, self._count)
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_post("/detokenize", self._detokenize)
        app.router.add_post("/flush_cache", self._flush)
        app.router.add_get("/v1/loads", self._loads)
        app.router.add_get("/model_info", self._model_info)
        app.router.add_get("/server_info", self._server_info)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.01)
        await self._runner.setup()
        assert self._runner.server is not None
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._runner.server, "127.0.0.1", self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._runner is not None:
            self._listener.close()
            await self._runner.cleanup()
            self._runner = None

    def go_on(self) -> None:
        """End every hang."""
        self._forever.set()

    def vanish(self) -> None:
        """Refuse new connections; open ones stay open and silent."""
        self._listener.close()

    def die(self, *, listens: bool = False) -> NoReturn:
        """End the request at hand as `kill` ends the process."""
        self.kill(listens=listens)
        raise asyncio.CancelledError

    def kill(self, *, listens: bool = False) -> None:
        """Behave as a killed process: every connection breaks, and no process listens, or another one does."""
        assert self._runner is not None
        assert self._runner.server is not None
        if not listens:
            self.vanish()
        for connection in self._runner.server.connections:
            if connection.transport is not None:
                connection.transport.abort()

    async def restart(self) -> None:
        await self.stop()
        self.restarts += 1
        self.adapters.loaded.clear()
        self.modules.restart()
        await self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def card(self) -> dict[str, Any]:
        card = WorkerCard(
            role=self.role,
            incarnation=f"{self.role}-{self.port}-{self.restarts}",
            bootstrap_port=9000 + self.restarts if self.role == "prefill" else None,
            identity=IDENTITY.model_copy(update={"weights": self.weights}),
            patches=(HOOK, SPLIT, REPLAYS),
            max_input_tokens=1000,
            context_length=1024,
            kv_tokens=4096,
            keeps_answers=False,
        ).model_dump(mode="json")
        # the changes of a test may make the card invalid
        changes = dict(self.card_changes)
        card["identity"] |= changes.pop("identity", {})
        return card | changes

    # --- handlers ---------------------------------------------------------------------------------------------------

    async def _card(self, request: web.Request) -> web.StreamResponse:
        self.cards_asked += 1
        if self.silent_cards:
            await self._forever.wait()
        if self.endless_card:
            out = web.StreamResponse()
            await out.prepare(request)
            while True:
                await out.write(b" " * 65536)
        body = orjson.dumps(self.card) if self.raw_card is None else self.raw_card
        return web.Response(body=body, content_type="application/json")

    async def _abort(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.aborts.append(body)
        for rid, event in self.running.items():
            if body.get("abort_all") or rid.startswith(body["rid"]):
                event.set()
        return web.Response()

    async def _count(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.counted.append(body)
        if self.silent_counts:
            await self._forever.wait()
        if self.bad_count is not None:
            return web.Response(status=self.bad_count, body=b"no count")
        text = body["prompt"] if "prompt" in body else " ".join(m["content"] for m in body["messages"])
        return web.json_response(TokenCount(len(text.split()), exact=True)._asdict())

    async def _tokenize(self, request: web.Request) -> web.Response:
        """Answer as SGLang does for one prompt; a token is a character."""
        body = await request.json()
        self.counted.append(body)
        ids = prompt_of("/v1/completions" if "prompt" in body else "/v1/chat/completions", body)
        return web.json_response({"tokens": ids, "count": len(ids), "max_model_len": 4096})

    async def _detokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.counted.append(body)
        return web.json_response({"text": "".join(map(chr, body["tokens"]))})

    async def _flush(self, request: web.Request) -> web.StreamResponse:
        if self.info is not None:
            return await self.info(request)
        self.flushes += 1
        self.cache.clear()
        return web.Response(text="Cache flushed.\n")

    async def _loads(self, _: web.Request) -> web.Response:
        self.looked += 1
        return web.json_response({"loads": [{"timestamp": self.looked if self.batches else 0, **self.load}]})

    async def _model_info(self, request: web.Request) -> web.StreamResponse:
        self.info_headers.append(dict(request.headers))
        if self.info is not None:
            return await self.info(request)
        return web.json_response({"model_path": self.weights, "tokenizer_path": "tok", "served_model_name": "x"})

    async def _server_info(self, request: web.Request) -> web.StreamResponse:
        if self.info is not None:
            return await self.info(request)
        return web.json_response({"internal_states": [{"w": self.weights}], "api_key": "s3cret", "tp_size": 1})

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        is_canary = "sun-canary" in body["extra_key"]
        if is_canary and body.get("return_logprob"):
            self.adapters.canaries.append(body.get("lora_path"))
            self.modules.canaries.append(module_in(body["extra_key"]))
        elif is_canary:
            self.canaries += 1
        else:
            self.requests.append((request.path, body))
        self.names.append((body["rid"], body["bootstrap_room"]))
        fault = self.canary_fault if is_canary else self.fault
        if fault is not None:
            fault.times -= 1
            if fault.times < 0:
                fault = None
        rid = body["rid"]
        assert rid not in self.running, "a rid twice at once"
        self.running[rid] = asyncio.Event()
        self.idle.clear()
        self.stepped.set()
        try:
            return await self._answer(request, body, fault or Fault())
        finally:
            del self.running[rid]
            if not self.running:
                self.idle.set()

    async def _answer(self, request: web.Request, body: dict[str, Any], fault: Fault) -> web.StreamResponse:
        replay = read_replay(body["extra_key"])
        body = {**body, "extra_key": replay.extra_key, "reported": replay.tokens is not None}
        body["repeated"] = [] if self.ignores_tokens else list(replay.tokens or ())
        if fault.wait is not None:
            await fault.wait.wait()
        if fault.hang:
            await self._unless_aborted(body["rid"], self._forever.wait())
        if fault.drop:
            assert request.transport is not None
            request.transport.abort()
            raise asyncio.CancelledError
        if fault.replaced:
            self.restarts += 1
            self.die(listens=True)
        if fault.die:
            self.die()
        if fault.endless:
            return await self._send_endlessly(request)
        if fault.status:
            answer = fault.body.replace(b"RID", body["rid"].encode())
            return web.Response(status=fault.status, body=answer, content_type="application/json")
        if read_mark(body["extra_key"]).decode_first and len(prompt_of(request.path, body)) < 2:
            return web.json_response({"error": {"message": ONE_TOKEN}}, status=400)
        if self.role == "prefill":
            missing = self.adapters.refusal(body.get("lora_path")) or self.modules.refusal(module_in(body["extra_key"]))
            return missing or await self._prefill(request.path, body, fault)
        assert "lora_path" not in body, "a decode worker has no adapters"
        return await self._decode(request, body, fault)

    async def _send_endlessly(self, request: web.Request) -> web.StreamResponse:
        out = web.StreamResponse(headers={"Content-Type": "application/json"})
        await out.prepare(request)
        while True:
            await out.write(b"[" * (1 << 16))
            self.written += 1 << 16

    async def _prefill(self, path: str, body: dict[str, Any], fault: Fault) -> web.Response:
        assert body["bootstrap_port"] == self.card["bootstrap_port"]
        assert 0 < body["bootstrap_room"] < 1 << 63
        assert body["bootstrap_room"] not in self.rooms.used, "a room twice"
        self.rooms.used.append(body["bootstrap_room"])
        prompt, mark = prompt_of(path, body), read_mark(body["extra_key"])
        if fault.abort is not None:
            return reply(FakeReplies(path, body, prompt, 0).whole([1], fault.abort))
        ids = prompt[:-1] if mark.decode_first and not self.ignores_mark else prompt
        known = self.cache.setdefault(mark.namespace or "", set())
        adapter, module = body.get("lora_path"), module_in(body["extra_key"])
        self.modules.load(module)
        weights = f"{self.weights}+{adapter}" if adapter else f"{self.weights}*{module}" if module else self.weights
        of = self.modules if module else self.adapters
        handed = {
            "weights": weights,
            "first": (body["repeated"] or [token(weights, ids, *self._drawn(body))])[0],
            # the last token of a prompt is always computed
            "cached": (len(ids) - 1) * (tuple(ids) in known),
        }
        known.add(tuple(ids))
        self.rooms.meet(body["bootstrap_room"]).set_result(handed)
        finish = {"type": "length", "length": 1}
        replies = FakeReplies(
            path,
            body,
            prompt,
            handed["cached"],
            computes_prompt=True,
            counted=len(ids),
            input_logprob=lambda place: of.logprob(module or adapter, prompt, place),
        )
        return reply(replies.whole([handed["first"]], finish))

    async def _decode(self, request: web.Request, body: dict[str, Any], fault: Fault) -> web.StreamResponse:
        path, ids = request.path, prompt_of(request.path, body)
        if fault.writes is not None:
            out = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await out.prepare(request)
            for piece in fault.writes:
                await out.write(piece)
            if fault.hang_after is not None:
                await self._unless_aborted(body["rid"], self._forever.wait())
            return out
        met = self.rooms.meet(body["bootstrap_room"])
        if await self._unless_aborted(body["rid"], asyncio.shield(met)):
            return await self._send(request, body, FakeReplies(path, body, ids, 0), [], ABORTED, fault)
        handed = met.result()
        if fault.abort is not None:
            return await self._send(request, body, FakeReplies(path, body, ids, 0), [], fault.abort, fault)
        decode_first = read_mark(body["extra_key"]).decode_first
        drawn = self._drawn(body)
        made = [token(handed["weights"], self.weights, ids, i, *drawn) for i in range(max(1, wanted(path, body)))]
        if not decode_first:
            made[0] = handed["first"]
        made[: len(body["repeated"])] = body["repeated"][: len(made)]
        # the cache hit of a namespace: the answer is then made from the cached KV of any module
        replies = FakeReplies(path, body, ids, handed["cached"], makes_first=decode_first)
        return await self._send(request, body, replies, made, {"type": "length", "length": len(made)}, fault)

    async def _send(
        self,
        request: web.Request,
        body: dict[str, Any],
        replies: FakeReplies,
        made: list[int],
        finish: dict[str, Any],
        fault: Fault,
    ) -> web.StreamResponse:
        rid = body["rid"]
        if not body["stream"]:
            if fault.hang_after is not None and await self._unless_aborted(rid, self._forever.wait()):
                made, finish = made[: fault.hang_after], ABORTED
            return reply(replies.whole(made, finish))
        out = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await out.prepare(request)
        reported = 0
        async for count, chunk in self._chunks(rid, replies, made, finish, fault):
            if body["reported"] and count > reported:
                chunk, reported = tokens_comment(made[reported:count]) + (chunk or b""), count
            if chunk is None:
                self.die()
            await out.write(chunk)
        await out.write(DONE)
        return out

    async def _chunks(
        self,
        rid: str,
        replies: FakeReplies,
        made: list[int],
        finish: dict[str, Any],
        fault: Fault,
    ) -> AsyncIterator[tuple[int, bytes | None]]:
        """Yield the number of tokens that were made, and the next events; None instead of events for a death."""
        for i in range(0, max(1, len(made)), self.step):
            if i == fault.die_after:
                yield 0, None
            if i == fault.error_after:
                yield 0, b'data: {"error":{"message":"made to fail","code":500}}\n\n'
                return
            if i == fault.hang_after:
                self.stepped.set()
                self.hanging += 1
                if await self._unless_aborted(rid, self._forever.wait()):
                    yield 0, replies.events(made[:i], i, ABORTED)
                    return
            end = min(len(made), i + self.step)
            yield end, replies.events(made[:end], i, finish if end >= len(made) else None)
        if usage := replies.usage_event(made):
            yield 0, usage

    def _drawn(self, body: dict[str, Any]) -> tuple[int, ...]:
        """Return what distinguishes the tokens of two runs: the room, if the request samples."""
        samples = {**body, **(body.get("sampling_params") or {})}.get("temperature")
        return (body["bootstrap_room"],) if samples else ()

    async def _unless_aborted(self, rid: str, wait: Any) -> bool:
        """Wait for something or for the request's abort. Returns whether it was the abort."""
        waits = [asyncio.ensure_future(wait), asyncio.ensure_future(self.running[rid].wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return not waits[0].done()
        finally:
            for task in waits:
                task.cancel()


def reply(data: dict[str, Any]) -> web.Response:
    return web.Response(body=orjson.dumps(data), content_type="application/json")
