"""One SGLang server with this package's hooks: prepares the process, proves that every hook took, serves.

    python -m sun_sglang.worker.server --model-path DIR --disaggregation-mode prefill ...

takes SGLang's own flags and nothing else. SGLang stays the unmodified package.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sun_sglang.contracts.token_count import TOKEN_COUNT_PATH
from sun_sglang.contracts.worker_card import WORKER_CARD_PATH
from sun_sglang.contracts.worker_key import read_key
from sun_sglang.cpu import has_gpu, prepare_cpu_engine
from sun_sglang.errors import END_MARK, EXIT_REFUSED, PatchError, SunError
from sun_sglang.http_application import require_http_application
from sun_sglang.worker.card_page import CardPage, UpdatesNoted
from sun_sglang.worker.key_middleware import KeyRequired
from sun_sglang.worker.prompt_counter import PromptCounter
from sun_sglang.worker.scheduler_watch import skip_core_dumps

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

    A fork server does this once for all its workers, before any thread or device exists.

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
        CheckpointError: the served model cannot be read.
        UserError: SGLang would not serve the application to which the worker adds its routes.
    """
    import_engine()
    from sglang.launch_server import run_server
    from sglang.srt.entrypoints import http_server
    from sglang.srt.server_args import prepare_server_args
    from sglang.srt.utils import kill_process_tree

    from sun_sglang.patches.versions import installed_version

    server_args = prepare_server_args(list(argv))
    require_http_application(server_args, os.environ)
    skip_core_dumps(os.environ)
    page = CardPage(installed_version() or "")
    offer_routes(http_server, page)
    if key := read_key(os.environ):
        http_server.app.add_middleware(KeyRequired, key=key)
    try:
        run_server(server_args)
    finally:
        kill_process_tree(os.getpid(), include_parent=False)
        # uvicorn only logs why a server could not start
        page.require_prepared()


def offer_routes(http_server: Any, page: CardPage) -> None:
    """Add `GET /sun/worker` and `POST /sun/tokens` to SGLang's HTTP server.

    Args:
        http_server: SGLang's module `entrypoints.http_server`.
        page: answers the first of them; it is prepared before the server opens its port.
    """
    app = http_server.app
    engine_lifespan = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(served: Any) -> AsyncIterator[Any]:
        page.prepare(http_server.get_global_state())
        async with engine_lifespan(served) as state:
            yield state

    app.router.lifespan_context = lifespan
    app.add_middleware(UpdatesNoted, page=page)
    app.router.add_route(WORKER_CARD_PATH, page.handle, methods=["GET"])
    app.router.add_route(TOKEN_COUNT_PATH, PromptCounter(app).handle, methods=["POST"])


def report_end(error: SunError) -> int:
    """Write why a worker ends to its log, and return its exit status."""
    sys.stderr.write(f"{END_MARK}{error}\n")
    return EXIT_REFUSED if isinstance(error, PatchError) else 1


def main() -> None:
    """Entry point of `python -m sun_sglang.worker.server`."""
    try:
        serve(sys.argv[1:])
    except SunError as e:
        sys.exit(report_end(e))


if __name__ == "__mp_main__":
    # a process that multiprocessing spawned imports this file before it imports SGLang
    prepare_process()
elif __name__ == "__main__":
    main()
