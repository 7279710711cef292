"""`sun workers`: show, add, drain, restart and remove the workers that a running deployment's router uses."""

from __future__ import annotations

import asyncio
import json
import math
import signal
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from sun_sglang.errors import LaunchError, UserError

if TYPE_CHECKING:
    from sun_sglang.cli.display.restart_view import RestartView
    from sun_sglang.launch.rolling_restart.messages import Outcome, RestartRequest
    from sun_sglang.launch.router_client import RouterClient

EXAMPLE = "sun workers remove base-1"
_POLL = 0.2


class Action(StrEnum):
    """The actions of `sun workers`."""

    LIST = "list"
    ADD = "add"
    DRAIN = "drain"
    RESUME = "resume"
    RESTART = "restart"
    REMOVE = "remove"


class _NewWorker(NamedTuple):
    """The options of `add`."""

    pool: str | None
    url: str | None
    role: str | None
    model: str | None
    key_file: Path | None


def command(
    action: Annotated[Action, typer.Argument(help="Without an action, the workers are listed.")] = Action.LIST,
    name: Annotated[
        str | None, typer.Argument(help="The worker; not for `list`. restart: a pool or a worker.", show_default=False)
    ] = None,
    pool: Annotated[str | None, typer.Option(help="add, restart: the worker's pool.")] = None,
    url: Annotated[str | None, typer.Option(help="add: where the worker listens, http://HOST:PORT.")] = None,
    role: Annotated[str | None, typer.Option(help="add: also add the pool, with this role: prefill or decode.")] = None,
    model: Annotated[str | None, typer.Option(help="add: the new pool's model, as reports show it.")] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="add: file with the worker key that the worker requires.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0, help="drain, remove, restart: seconds to wait until a worker's requests have ended.")
    ] = 300.0,
    force: Annotated[
        bool, typer.Option("--force", help="remove: do not wait; the worker's requests in flight fail.")
    ] = False,
    move: Annotated[
        bool, typer.Option("--move", help="drain: let other decode workers go on with the worker's answers.")
    ] = False,
    allow_gap: Annotated[
        bool, typer.Option("--allow-gap", help="restart: restart a worker although no other one serves its tasks.")
    ] = False,
    file: Annotated[
        Path | None, typer.Option(help="The deployment's topology file; not needed while one deployment is running.")
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(help="The --run-dir given to `sun launch`.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show or change which workers the router sends requests to.

    `restart` restarts the launcher's workers, one after the other: each is drained, stopped, started, and serves again
    before the next one. It stops at the first that does not come back. The other actions start and stop no process.
    """
    from sun_sglang.launch.discovery import running_deployment
    from sun_sglang.launch.router_access import read_access
    from sun_sglang.launch.router_client import RouterClient

    if not math.isfinite(timeout):
        raise UserError(f"--timeout: a number of seconds, not {timeout}")
    if move and action is not Action.DRAIN:
        raise UserError(f"--move is for `sun workers drain`, not for {action}")
    directory, state = running_deployment(file, run_dir)
    if action is Action.RESTART:
        _restart(directory, name, pool, timeout, allow_gap, as_json)
        return
    if action is not Action.LIST and name is None:
        raise UserError(f"which worker? `sun workers {action} NAME`; `sun workers` lists them")
    client = RouterClient(state.url, read_access(directory))
    new = _NewWorker(pool, url, role, model, key_file)
    _show(asyncio.run(_run(client, action, name or "", new, timeout, force, move)), as_json)


async def _run(
    client: RouterClient, action: Action, name: str, new: _NewWorker, timeout: float, force: bool, move: bool
) -> list[dict[str, Any]]:
    """Run the action, and return the workers."""
    async with client:
        match action:
            case Action.ADD:
                await _add(client, name, new)
            case Action.REMOVE:
                await client.remove_worker(name, force=force)
                await _wait(client, name, timeout, gone=True)
            case Action.DRAIN:
                await client.change_worker(name, action, move=move)
                await _wait(client, name, timeout, gone=False)
            case Action.RESUME:
                await client.change_worker(name, action)
        return await client.workers()


def _restart(run_dir: Path, name: str | None, pool: str | None, timeout: float, allow_gap: bool, as_json: bool) -> None:
    """Let the launcher restart workers. Exits with 1 unless all of them serve again."""
    from rich.console import Console

    from sun_sglang.cli.display.restart_view import RestartView, describe_end
    from sun_sglang.launch.rolling_restart.messages import RestartRequest

    if name is None and pool is None:
        raise UserError("which workers? `sun workers restart POOL`, or the name of one; `sun workers` lists them")
    request = RestartRequest(name=name, pool=pool, timeout=timeout, allow_gap=allow_gap)
    console = Console(highlight=False, soft_wrap=True, stderr=as_json)
    console.quiet = as_json and not console.is_terminal
    with RestartView(console) as view:
        outcome = asyncio.run(_watch_restart(run_dir, request, view))
    end = describe_end(outcome)
    if as_json:
        typer.echo(outcome.model_dump_json(indent=2, exclude={"kind": True, "restarted": {"__all__": {"kind"}}}))
        sys.exit(1 if end else 0)
    if end:
        raise LaunchError(end)


async def _watch_restart(run_dir: Path, request: RestartRequest, view: RestartView) -> Outcome:
    """Show a restart until its end. The first Ctrl-C ends it after the present worker, the second leaves at once."""
    from sun_sglang.cli.display.restart_view import describe_step
    from sun_sglang.launch.control.client import ControlClient
    from sun_sglang.launch.rolling_restart.client import cancel_restart, restart_workers

    loop = asyncio.get_running_loop()
    async with ControlClient(run_dir) as client:
        restart = asyncio.create_task(restart_workers(client, request, view.show))
        ending: list[asyncio.Task[None]] = []

        async def end() -> None:
            try:
                await cancel_restart(client)
            except (LaunchError, UserError):
                # it has not begun, or the launcher does not answer
                restart.cancel()

        def interrupt() -> None:
            if ending:
                restart.cancel()
                return
            view.note("The restart ends after the present worker; Ctrl-C again leaves that to the launcher.")
            ending.append(loop.create_task(end()))

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, interrupt)
        try:
            return await restart
        except asyncio.CancelledError as e:
            at = f" ({describe_step(view.last)})" if view.last is not None else ""
            raise LaunchError(
                f"the launcher ends the restart after the present worker{at}, and puts that worker back; `sun workers` "
                "shows it"
            ) from e
        finally:
            await asyncio.gather(*ending, return_exceptions=True)


async def _add(client: RouterClient, name: str, new: _NewWorker) -> None:
    if new.pool is None or new.url is None:
        raise UserError("a worker has a pool and a URL: `sun workers add NAME --pool POOL --url URL`")
    if new.role is not None:
        await client.add_pool(new.pool, new.role, new.model or new.pool)
    await client.add_worker(name, new.pool, new.url, _read_key(new.key_file))


def _read_key(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"--key-file: {file} cannot be read ({e})") from e


async def _wait(client: RouterClient, name: str, timeout: float, *, gone: bool) -> None:
    """Wait until a worker has no requests in flight, or where `gone` is true, until it has left the fleet."""
    end = time.monotonic() + timeout
    while True:
        left = {w["name"]: w for w in await client.workers()}.get(name)
        if left is None or (not gone and left["in_flight"] == 0):
            return
        if time.monotonic() > end:
            raise LaunchError(
                f"after {timeout:g} s `{name}` still has {left['in_flight']} requests; it receives no new ones, and "
                f"`sun workers {'remove' if gone else 'drain'} {name}` continues to wait"
            )
        await asyncio.sleep(_POLL)


def _show(workers: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(workers, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("worker", "pool", "role", "state", "in flight", "url")
    for w in workers:
        table.add_row(w["name"], w["pool"], w["role"], w["state"], str(w["in_flight"]), w["url"])
    Console(highlight=False).print(table)
