"""One SGLang server with this package's hooks: prepare the process, require every hook, serve.

    python -m sun_sglang.worker.server --model-path DIR --disaggregation-mode prefill ...

Accepts SGLang's flags and no others. SGLang stays the unmodified package.

This is a module and not a `__main__`: a process that multiprocessing spawns imports the main module of its parent by
its name, as `__mp_main__`, and must prepare itself before it imports SGLang.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sun_sglang.contracts.adapters_report import ADAPTERS_PATH
from sun_sglang.contracts.module import MODULES_PATH
from sun_sglang.contracts.token_count import TOKEN_COUNT_PATH
from sun_sglang.contracts.worker_card import WORKER_CARD_PATH
from sun_sglang.contracts.worker_key import read_key
from sun_sglang.cpu import has_gpu, prepare_cpu_engine
from sun_sglang.errors import END_MARK, EXIT_REFUSED, PatchError, SunError
from sun_sglang.files.user_cache import engine_caches
from sun_sglang.http_application import require_http_application
from sun_sglang.worker.adapters_page import AdaptersPage
from sun_sglang.worker.card_page import CardPage, WeightUpdateMiddleware
from sun_sglang.worker.key_middleware import WorkerKeyMiddleware
from sun_sglang.worker.modules.page import ModulesPage
from sun_sglang.worker.prompt_counter import PromptCounter
from sun_sglang.worker.scheduler_watch import skip_core_dumps

ENGINE_MODULES = (
    "sglang.srt.entrypoints.http_server",
    "sglang.srt.managers.scheduler",
    "sglang.srt.managers.detokenizer_manager",
    "sglang.srt.disaggregation.prefill",
    "sglang.srt.disaggregation.decode",
)


def prepare_process() -> None:
    """Give SGLang cache directories that can be written, and stand-ins for the GPU packages on a machine without a GPU.

    Call before the first `import sglang`.

    Raises:
        UserError: no directory for caches can be written.
    """
    os.environ.update(engine_caches(os.environ))
    if not has_gpu():
        prepare_cpu_engine()


def import_engine() -> None:
    """Import the modules that a worker's processes use, and register the hooks.

    A fork server calls it once for all its workers, before it has a thread or a CUDA context.

    Raises:
        PatchError: a hook is not in place.
    """
    from sun_sglang.patches import require_applied
    from sun_sglang.patches.versions import installed_version, require_plugin_selected, require_supported

    # before an import of seconds
    require_supported(installed_version())
    require_plugin_selected()
    prepare_process()
    # modules stay: a search for garbage among them would take a fifth of the time
    gc.disable()
    try:
        for module in ENGINE_MODULES:
            importlib.import_module(module)
    finally:
        gc.enable()
    from sglang.srt.plugins import load_plugins

    load_plugins()
    require_applied()


def serve(argv: Sequence[str]) -> None:
    """Run one server until it is stopped; return after a clean end.

    Args:
        argv: SGLang's flags, as after `sglang serve`.

    Raises:
        PatchError: a hook is not in place.
        CheckpointError: the served model cannot be read.
        UserError: the flags select an HTTP application other than the one that gets the worker's routes.
    """
    import_engine()
    from sglang.launch_server import run_server
    from sglang.srt.entrypoints import http_server
    from sglang.srt.server_args import prepare_server_args
    from sglang.srt.utils import kill_process_tree

    from sun_sglang.patches.replay.stream_tokens import TokenReports
    from sun_sglang.patches.versions import installed_version

    server_args = prepare_server_args(list(argv))
    require_http_application(server_args, os.environ)
    skip_core_dumps(os.environ)
    modules = ModulesPage(os.environ)
    page = CardPage(installed_version() or "", modules.limits)
    add_routes(http_server, page, AdaptersPage(os.environ), modules)
    http_server.app.add_middleware(TokenReports)
    if key := read_key(os.environ):
        http_server.app.add_middleware(WorkerKeyMiddleware, key=key)
    try:
        run_server(server_args)
    finally:
        kill_process_tree(os.getpid(), include_parent=False)
        # uvicorn logs the reason of a failed start and does not raise it
        page.require_prepared()


def add_routes(http_server: Any, page: CardPage, adapters: AdaptersPage, modules: ModulesPage) -> None:
    """Add `GET /sun/worker`, `GET /sun/adapters`, `/sun/modules` and `POST /sun/tokens` to SGLang's HTTP server.

    Args:
        http_server: SGLang's module `entrypoints.http_server`.
        page: answers `GET /sun/worker`; it is prepared before the server opens its port.
        adapters: answers `GET /sun/adapters`.
        modules: answers `/sun/modules`.
    """
    app = http_server.app
    engine_lifespan = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(served: Any) -> AsyncIterator[Any]:
        page.prepare(http_server.get_global_state(), modules.prepare)
        try:
            async with engine_lifespan(served) as state:
                yield state
        finally:
            modules.close()

    app.router.lifespan_context = lifespan
    app.add_middleware(WeightUpdateMiddleware, page=page)
    app.router.add_route(WORKER_CARD_PATH, page.handle, methods=["GET"])
    app.router.add_route(ADAPTERS_PATH, adapters.handle, methods=["GET"])
    app.router.add_route(MODULES_PATH, modules.handle, methods=["GET", "POST"])
    app.router.add_route(MODULES_PATH + "/{revision}", modules.handle_one, methods=["DELETE"])
    app.router.add_route(TOKEN_COUNT_PATH, PromptCounter(app).handle, methods=["POST"])


def report_end(error: SunError) -> int:
    """Write the reason for a worker's end to its log, and return its exit status."""
    sys.stderr.write(f"{END_MARK}{error}\n")
    return EXIT_REFUSED if isinstance(error, PatchError) else 1


def main() -> None:
    """Run `python -m sun_sglang.worker.server`."""
    try:
        serve(sys.argv[1:])
    except SunError as e:
        sys.exit(report_end(e))


if __name__ == "__mp_main__":
    # a spawned process imports this module before it imports SGLang
    prepare_process()
elif __name__ == "__main__":
    main()
