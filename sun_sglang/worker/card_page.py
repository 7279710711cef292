"""`GET /sun/worker` of an SGLang worker: its card, computed before it serves and again only after its weights change.

The computation reads the checkpoint, and a tokenizer alone may have 20 MB. Each router process reads the card once a
second, and work on the server's event loop delays every other request.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sun_sglang.checkpoint.identity import module_flags, read_identity
from sun_sglang.checkpoint.locate import find_checkpoint
from sun_sglang.contracts.adapter import AdapterLimits
from sun_sglang.contracts.adapter_targets import accepted_targets
from sun_sglang.contracts.decode_cache import ANSWER_STORE_FLAGS, PROMPT_ONLY_BACKEND
from sun_sglang.contracts.module import ModuleLimits
from sun_sglang.contracts.module_file import read_served_module
from sun_sglang.contracts.worker_card import WorkerCard
from sun_sglang.errors import PatchError, SunError
from sun_sglang.worker.asgi import App, Send
from sun_sglang.worker.prompt_counter import token_bytes_of
from sun_sglang.worker.scheduler_watch import crashed_process, watch_schedulers

if TYPE_CHECKING:
    from sun_sglang.patches.report_patches import Proof

_FROM_DISK = "/update_weights_from_disk"
# SGLang's routes that replace the weights of a running server (`entrypoints/http_server.py`)
_UPDATES = (
    _FROM_DISK,
    "/update_weights_from_tensor",
    "/update_weights_from_distributed",
    "/update_weights_from_ipc",
)


class CardPage:
    """The card of one server.

    Args:
        version: the version of SGLang.
        modules: how the worker keeps modules; None if it serves its own model alone.
    """

    def __init__(self, version: str, modules: ModuleLimits | None = None) -> None:
        self._version = version
        self._modules = modules
        self._incarnation = uuid.uuid4().hex
        self._state: Any = None
        self._card: WorkerCard | None = None
        self._fault: SunError | None = None
        self._token_bytes: int | None = None
        self._computing = asyncio.Lock()
        # number of weight updates, number of those that the card includes, and the name of weights not from a file
        self._updates = self._included = 0
        self._last_version = ""
        self._update_name = ""

    def prepare(self, state: Any, further: Callable[[Any], None] = lambda _: None) -> None:
        """Compute the card. Call once all schedulers run, and before anything is served.

        Args:
            state: SGLang's `_GlobalState` (`entrypoints/http_server.py`).
            further: prepares something else of the server from the same state; its `SunError` counts as this page's.

        Raises:
            PatchError: no scheduler reported its hooks.
            CheckpointError: the served model cannot be read.
        """
        try:
            self._prepare(state)
            further(state)
        except SunError as e:
            self._fault = e
            raise

    def require_prepared(self) -> None:
        """Raise the exception of `prepare`, if it failed."""
        if self._fault is not None:
            raise self._fault

    async def handle(self, _request: Any) -> Any:
        """Answer a request: 503 if a process of the server crashed, 500 if the checkpoint cannot be read."""
        from fastapi import Response

        manager = self._state.tokenizer_manager
        if (ended := crashed_process(manager._subprocess_watchdog)) is not None:
            return Response(f"process {ended} has ended", status_code=503, media_type="text/plain")
        async with self._computing:
            if self._included != self._updates:
                updates = self._updates
                try:
                    self._card = await asyncio.to_thread(self._compute)
                except SunError as e:
                    return Response(str(e), status_code=500, media_type="text/plain")
                self._included = updates
        assert self._card is not None, "the server opens its port after `prepare`"
        card = self._card.model_copy(update={"leaving": manager.gracefully_exit})
        return Response(card.model_dump_json(), media_type="application/json")

    @property
    def changes_modules(self) -> bool:
        """Whether the worker changes between the modules of tasks."""
        return self._modules is not None

    def note_update(self, path: str) -> None:
        """Record that a request to this path replaced the weights.

        The content of a file identifies weights from a file. Other weights are identified by the `weight_version` of
        the request; without one they are equal to no other worker's weights.
        """
        version = self._state.tokenizer_manager.config_value("weight_version")
        self._updates += 1
        if path == _FROM_DISK:
            self._update_name = ""
        elif version != self._last_version:
            self._update_name = version
        else:
            self._update_name = f"{self._incarnation} {self._updates}"
        self._last_version = version

    def _prepare(self, state: Any) -> None:
        from sun_sglang.patches.report_patches import scheduler_proofs

        self._state = state
        manager = state.tokenizer_manager
        watch_schedulers(manager._subprocess_watchdog, [proof.pid for proof in scheduler_proofs(state.scheduler_info)])
        self._token_bytes = token_bytes_of(manager.tokenizer)
        self._last_version = manager.config_value("weight_version")
        self._card = self._compute()

    def _compute(self) -> WorkerCard:
        card = read_card(self._state, self._incarnation, self._version, self._token_bytes)
        card = card.model_copy(update={"modules": self._modules})
        if not self._update_name:
            return card
        weights = f"{card.identity.weights}.{hashlib.sha256(self._update_name.encode()).hexdigest()[:16]}"
        changed = {"weights": weights, "decoder": weights}
        return card.model_copy(update={"identity": card.identity.model_copy(update=changed)})


class WeightUpdateMiddleware:
    """ASGI middleware that notifies a card page of each request that replaced the weights.

    A worker that changes between modules refuses such a request: it would take the new weights for the module before.

    Args:
        app: the application behind it.
        page: the card page.
    """

    def __init__(self, app: App, page: CardPage) -> None:
        self._app = app
        self._page = page

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Send) -> None:
        """Pass every request on."""
        path = scope.get("path", "")
        if path not in _UPDATES:
            await self._app(scope, receive, send)
            return

        if self._page.changes_modules:
            await _refuse_update(send)
            return

        async def send_and_note(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                self._page.note_update(path)
            await send(message)

        await self._app(scope, receive, send_and_note)


async def _refuse_update(send: Send) -> None:
    body = b'{"success":false,"message":"this worker changes its weights between the modules of tasks by itself"}'
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def read_card(state: Any, incarnation: str, version: str, token_bytes: int | None) -> WorkerCard:
    """Return the card of a running server.

    Args:
        state: SGLang's `_GlobalState` (`entrypoints/http_server.py`).
        incarnation: a random value for this start.
        version: the version of SGLang.
        token_bytes: most bytes of text per token; None if there is no bound.

    Raises:
        PatchError: no scheduler reported its hooks.
        CheckpointError: the served model cannot be read.
    """
    from sun_sglang.patches.report_patches import scheduler_proofs

    manager, info = state.tokenizer_manager, state.scheduler_info
    # a weight update changes the manager's values, and not the arguments with which the server was started
    loaded = {"model_path": manager.model_path, "load_format": manager.config_value("load_format")}
    flags = manager.server_args.resolved_dict() | loaded
    proofs = scheduler_proofs(info)
    if not proofs:
        raise PatchError("no scheduler reported its hooks")
    model = find_checkpoint(flags["model_path"], flags["revision"])
    assert model is not None, "the server has loaded the model"
    prefill, module = flags["disaggregation_mode"] == "prefill", read_served_module(model)
    identity = read_identity(model, flags, sglang=version)
    # SGLang compares the value that the scheduler resolved
    flag = {"kv_cache_dtype": proofs[0].kv_cache_dtype or identity.kv_cache_dtype}
    return WorkerCard(
        role="prefill" if prefill else "decode",
        incarnation=incarnation,
        bootstrap_port=flags["disaggregation_bootstrap_port"] if prefill else None,
        identity=identity.model_copy(update=flag),
        # every scheduler has the same hooks, and a server with a missing hook does not start
        patches=proofs[0].patches,
        # SGLang refuses a prompt of `max_req_input_len` tokens (managers/utils.py: validate_input_length)
        max_input_tokens=info["max_req_input_len"] - 1,
        context_length=manager.context_len,
        kv_tokens=info["max_total_num_tokens"],
        module_flags=module_flags(flags),
        keeps_answers=not prefill and keeps_answers(flags),
        caches_prompts=not flags["disable_radix_cache"],
        token_bytes=token_bytes,
        # 0.5.21 counts the ranks of DP attention in `dp_size`, later versions beside it
        dp_size=flags["dp_size"] * flags.get("attn_dp_size", 1),
        tuned_for=module.decoder if prefill and module is not None else "",
        tuned_on=module.tuned_on(identity.weights, identity.decoder) if not prefill and module is not None else "",
        first_token=module.first_token if module is not None else "prefill",
        adapters=adapter_limits(proofs[0], flags),
    )


def adapter_limits(proof: Proof, flags: Mapping[str, Any]) -> AdapterLimits | None:
    """Return the adapters that a worker accepts while it runs; None if it accepts none.

    SGLang loads no adapters into a running server with data-parallel ranks (`TokenizerManager.load_lora_adapter`).

    Args:
        proof: what a scheduler reported of itself.
        flags: SGLang's flags.
    """
    if not proof.lora_rank or flags["dp_size"] * flags.get("attn_dp_size", 1) != 1:
        return None
    return AdapterLimits(
        max_rank=proof.lora_rank,
        target_modules=accepted_targets(proof.lora_targets),
        slots=flags["max_loras_per_batch"],
        max_loaded=flags["max_loaded_loras"],
    )


def keeps_answers(flags: Mapping[str, Any]) -> bool:
    """Return whether a decode worker with these flags keeps the KV of answers, in its cache or in another store."""
    if any(flags[name] for name in ANSWER_STORE_FLAGS):
        return True
    caches = flags["disaggregation_decode_enable_radix_cache"] and not flags["disable_radix_cache"]
    return bool(caches) and flags["radix_cache_backend"] != PROMPT_ONLY_BACKEND
