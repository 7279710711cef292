"""`sun workers`: the workers of a running deployment, added, drained and removed while it serves."""

from __future__ import annotations

import asyncio
import json
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from sun_sglang.cli.status import the_only
from sun_sglang.errors import LaunchError, UserError
from sun_sglang.launch.router_access import read_access
from sun_sglang.launch.router_client import RouterClient

EXAMPLE = "sun workers remove base-1"
_POLL = 0.2


class Action(StrEnum):
    """What to do."""

    LIST = "list"
    ADD = "add"
    DRAIN = "drain"
    RESUME = "resume"
    REMOVE = "remove"


def command(
    action: Annotated[Action, typer.Argument(help="What to do.")] = Action.LIST,
    name: Annotated[str | None, typer.Argument(help="The worker; not for `list`.", show_default=False)] = None,
    pool: Annotated[str | None, typer.Option(help="add: the pool it belongs to.")] = None,
    url: Annotated[str | None, typer.Option(help="add: where it listens, http://HOST:PORT.")] = None,
    role: Annotated[str | None, typer.Option(help="add: make the pool, with this role: prefill or decode.")] = None,
    model: Annotated[str | None, typer.Option(help="add: the new pool's model, for humans.")] = None,
    key_file: Annotated[Path | None, typer.Option(help="add: holds the worker key that it requires.")] = None,
    timeout: Annotated[float, typer.Option(help="drain, remove: seconds to wait for its requests to end.")] = 300.0,
    force: Annotated[bool, typer.Option("--force", help="remove: do not wait; its requests are lost.")] = False,
    file: Annotated[Path | None, typer.Option(help="The deployment's topology file; not needed for one.")] = None,
    run_dir: Annotated[Path | None, typer.Option(help="The directory given to `sun launch`.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show or change which workers the router sends requests to. It starts and stops no process."""
    directory, state = the_only(file, run_dir)
    if action is not Action.LIST and name is None:
        raise UserError(f"which worker? `sun workers {action} NAME`; `sun workers` lists them")
    asyncio.run(_run(RouterClient(state.url, read_access(directory)), action, name or "", **_options(locals())))


def _options(given: dict[str, Any]) -> dict[str, Any]:
    return {k: given[k] for k in ("pool", "url", "role", "model", "key_file", "timeout", "force", "as_json")}


async def _run(
    client: RouterClient,
    action: Action,
    name: str,
    *,
    pool: str | None,
    url: str | None,
    role: str | None,
    model: str | None,
    key_file: Path | None,
    timeout: float,
    force: bool,
    as_json: bool,
) -> None:
    async with client:
        if action is Action.ADD:
            if pool is None or url is None:
                raise UserError("a worker has a pool and a URL: `sun workers add NAME --pool POOL --url URL`")
            if role is not None:
                await client.call("POST", "/pools", {"name": pool, "role": role, "model": model or pool})
            await client.call("POST", "/workers", {"name": name, "pool": pool, "url": url, "key": _read_key(key_file)})
        elif action is Action.REMOVE:
            await client.call("DELETE", f"/workers/{name}{'?force=true' if force else ''}")
            await _wait(client, name, timeout, gone=True)
        elif action is not Action.LIST:
            await client.call("POST", f"/workers/{name}/{action}")
            if action is Action.DRAIN:
                await _wait(client, name, timeout, gone=False)
        _show((await client.call("GET", "/workers"))["workers"], as_json)


def _read_key(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"--key-file: {file} cannot be read ({e})") from e


async def _wait(client: RouterClient, name: str, timeout: float, *, gone: bool) -> None:
    """Wait until a worker has no requests any more, or has left."""
    end = time.monotonic() + timeout
    while True:
        workers = {w["name"]: w for w in (await client.call("GET", "/workers"))["workers"]}
        left = workers.get(name)
        if left is None or (not gone and left["in_flight"] == 0):
            return
        if time.monotonic() > end:
            raise LaunchError(
                f"after {timeout:g} s `{name}` still has {left['in_flight']} requests; it takes no new ones, and "
                f"`sun workers {'remove' if gone else 'drain'} {name}` waits on"
            )
        await asyncio.sleep(_POLL)


def _show(workers: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(workers, indent=2))
        return
    table = Table("worker", "pool", "role", "state", "in flight", "url")
    for w in workers:
        table.add_row(w["name"], w["pool"], w["role"], w["state"], str(w["in_flight"]), w["url"])
    Console(highlight=False).print(table)
