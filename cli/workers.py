"""`sun workers`: show, add, drain and remove the workers that a running deployment's router uses."""

from __future__ import annotations

import asyncio
import json
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from sun_sglang.errors import LaunchError, UserError

if TYPE_CHECKING:
    from sun_sglang.launch.router_client import RouterClient

EXAMPLE = "sun workers remove base-1"
_POLL = 0.2


class Action(StrEnum):
    """The actions of `sun workers`."""

    LIST = "list"
    ADD = "add"
    DRAIN = "drain"
    RESUME = "resume"
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
    name: Annotated[str | None, typer.Argument(help="The worker; not for `list`.", show_default=False)] = None,
    pool: Annotated[str | None, typer.Option(help="add: the worker's pool.")] = None,
    url: Annotated[str | None, typer.Option(help="add: where the worker listens, http://HOST:PORT.")] = None,
    role: Annotated[str | None, typer.Option(help="add: also add the pool, with this role: prefill or decode.")] = None,
    model: Annotated[str | None, typer.Option(help="add: the new pool's model, as reports show it.")] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="add: file with the worker key that the worker requires.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="drain, remove: seconds to wait until its requests have ended.")] = (
        300.0
    ),
    move: Annotated[
        bool,
        typer.Option(
            "--move", help="drain: the answers of a decode worker go on elsewhere, so that it is empty within seconds."
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="remove: do not wait; the worker's requests in flight fail.")
    ] = False,
    file: Annotated[
        Path | None, typer.Option(help="The deployment's topology file; not needed while one deployment is running.")
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(help="The --run-dir given to `sun launch`.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show or change which workers the router sends requests to. This command starts and stops no process."""
    from sun_sglang.launch.discovery import running_deployment
    from sun_sglang.launch.router_access import read_access
    from sun_sglang.launch.router_client import RouterClient

    directory, state = running_deployment(file, run_dir)
    if action is not Action.LIST and name is None:
        raise UserError(f"which worker? `sun workers {action} NAME`; `sun workers` lists them")
    if move and action is not Action.DRAIN:
        raise UserError(f"--move belongs to `sun workers drain NAME`, and not to `{action}`")
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
