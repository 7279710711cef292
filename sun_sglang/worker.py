"""One SGLang server with this package's hooks: prepares the process, proves that every hook took, serves.

    python -m sun_sglang.worker --model-path DIR --disaggregation-mode prefill ...

takes SGLang's own flags and nothing else. SGLang stays the unmodified package.
"""

from __future__ import annotations

import importlib
import os
import sys
import uuid
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sun_sglang.cpu import has_gpu, prepare_cpu_engine
from sun_sglang.errors import END_MARK, REFUSED, PatchError, SunError
from sun_sglang.identity import WorkerCard, find_checkpoint, module_flags, read_identity
from sun_sglang.prompt_counter import TOKENS_PATH, PromptCounter, token_bytes_of
from sun_sglang.tuning import read_tuning
from sun_sglang.worker_key import KeyRequired, read_key

CARD_PATH = "/sun/worker"
_ENGINE_MODULES = (
    "sglang.srt.entrypoints.http_server",
    "sglang.srt.managers.scheduler",
    "sglang.srt.managers.detokenizer_manager",
    "sglang.srt.disaggregation.prefill",
    "sglang.srt.disaggregation.decode",
)


def prepare_process() -> None:
    """Supply what this machine lacks. Call before the first `import sglang`."""
    if not has_gpu():
        prepare_cpu_engine()


def import_engine() -> None:
    """Import everything that a worker's processes use, and register the hooks.

    A nursery does this once for all its workers, before any thread or device exists.

    Raises:
        PatchError: a hook did not take.
    """
    prepare_process()
    for module in _ENGINE_MODULES:
        importlib.import_module(module)
    from sglang.srt.plugins import load_plugins

    from sun_sglang.patches import require_applied

    load_plugins()
    require_applied()


def serve(argv: Sequence[str]) -> None:
    """Run one server until it is told to stop; returns after a clean end.

    Args:
        argv: SGLang's flags, as after `sglang serve`.

    Raises:
        PatchError: a hook did not take.
    """
    import_engine()
    from sglang.launch_server import run_server
    from sglang.srt.server_args import prepare_server_args
    from sglang.srt.utils import kill_process_tree

    offer_routes()
    if key := read_key(os.environ):
        require_key(key)
    try:
        run_server(prepare_server_args(list(argv)))
    finally:
        kill_process_tree(os.getpid(), include_parent=False)


def offer_routes() -> None:
    """Add `GET /sun/worker` and `POST /sun/tokens` to SGLang's HTTP server."""
    from fastapi import Response
    from sglang.srt.entrypoints import http_server

    from sun_sglang.patches.versions import installed_version

    incarnation = uuid.uuid4().hex
    version = installed_version() or ""
    # a tokenizer stays the same while its server runs, and reading a large one takes a while
    token_bytes = cache(token_bytes_of)

    async def card() -> Response:
        state = http_server.get_global_state()
        if (ended := ended_process(state)) is not None:
            return Response(f"process {ended} has ended", status_code=503, media_type="text/plain")
        longest = token_bytes(state.tokenizer_manager.tokenizer)
        body = read_card(state, incarnation, version, longest).model_dump_json()
        return Response(body, media_type="application/json")

    http_server.app.add_api_route(CARD_PATH, card, methods=["GET"])
    http_server.app.router.add_route(TOKENS_PATH, PromptCounter(http_server.app).handle, methods=["POST"])


def ended_process(state: Any) -> str | None:
    """Return the name of a scheduler or detokenizer process that has crashed; None if all run.

    SGLang's own watchdog looks once a second (srt/utils/watchdog.py: SubprocessWatchdog); until then its HTTP server
    answers for a worker that is dead.

    Args:
        state: SGLang's `_GlobalState` (`entrypoints/http_server.py`).
    """
    watchdog = state.tokenizer_manager._subprocess_watchdog
    if watchdog is None:
        return None
    for process, name in zip(watchdog._processes, watchdog._names, strict=True):
        if not process.is_alive() and process.exitcode != 0:
            return str(name)
    return None


def require_key(key: str) -> None:
    """Refuse every HTTP request that does not carry the key.

    SGLang's own check lets `/health*`, `/ready*`, `/metrics*` and OPTIONS pass, and `/health_generate` computes.
    """
    from sglang.srt.entrypoints import http_server

    http_server.app.add_middleware(KeyRequired, key=key)


def read_card(state: Any, incarnation: str, version: str, token_bytes: int | None) -> WorkerCard:
    """What a running server says of itself.

    Args:
        state: SGLang's `_GlobalState` (`entrypoints/http_server.py`).
        incarnation: this start's own value.
        version: of SGLang.
        token_bytes: most bytes of text that one of its tokens may cover; None where there is no such number.
    """
    from sun_sglang.patches.report_patches import proven

    args = state.tokenizer_manager.server_args
    flags = args.resolved_dict()
    info = state.scheduler_info
    proofs = proven(info)
    if not proofs:
        raise PatchError("no scheduler left a proof of its hooks")
    model = find_checkpoint(flags["model_path"], flags["revision"])
    assert model is not None, "a model that is served has been loaded"
    prefill, tuning = flags["disaggregation_mode"] == "prefill", read_tuning(model)
    return WorkerCard(
        role="prefill" if prefill else "decode",
        incarnation=incarnation,
        bootstrap_port=flags["disaggregation_bootstrap_port"] if prefill else None,
        identity=read_identity(model, flags, sglang=version),
        # every scheduler has the same hooks, and a server with a hook that did not take does not start
        patches=proofs[0].patches,
        # the first length that SGLang refuses (managers/utils.py: validate_input_length)
        max_input_tokens=info["max_req_input_len"] - 1,
        context_length=state.tokenizer_manager.context_len,
        kv_tokens=info["max_total_num_tokens"],
        leaving=state.tokenizer_manager.gracefully_exit,
        module_flags=module_flags(flags),
        keeps_answers=not prefill and keeps_answers(flags),
        token_bytes=token_bytes,
        # 0.5.21 counts the ranks of DP attention in `dp_size`, later versions beside it
        dp_size=flags["dp_size"] * flags.get("attn_dp_size", 1),
        tuned_for=tuning.decoder if prefill and tuning is not None else "",
    )


def keeps_answers(flags: Mapping[str, Any]) -> bool:
    """Return whether a decode worker with these flags keeps the KV of answers, in its cache or in another store."""
    from sun_sglang.patches.prompt_only_cache import BACKEND, OTHER_STORES

    if any(flags[name] for name in OTHER_STORES):
        return True
    caches = flags["disaggregation_decode_enable_radix_cache"] and not flags["disable_radix_cache"]
    return bool(caches) and flags["radix_cache_backend"] != BACKEND


def report_end(error: SunError) -> int:
    """Write why a worker ends to its log, and return its exit status."""
    sys.stderr.write(f"{END_MARK}{error}\n")
    return REFUSED if isinstance(error, PatchError) else 1


def main() -> None:
    """Entry point of `python -m sun_sglang.worker`."""
    try:
        serve(sys.argv[1:])
    except SunError as e:
        sys.exit(report_end(e))


if __name__ == "__mp_main__":
    # a process that multiprocessing spawned imports this file before it imports SGLang
    prepare_process()
elif __name__ == "__main__":
    main()
