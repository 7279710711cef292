"""`sun task`: give a task of a running deployment another prefill pool, decode pool or share."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sun_sglang.errors import LaunchError, UserError

if TYPE_CHECKING:
    from sun_sglang.launch.router_client import RouterClient

EXAMPLE = "sun task math --prefill math-v2"
_POLL = 0.2


def command(
    name: Annotated[str, typer.Argument(help="The task; a new task needs both pools.", show_default=False)],
    prefill: Annotated[str | None, typer.Option(help="The pool that prefills its prompts.")] = None,
    decode: Annotated[str | None, typer.Option(help="The pool that decodes its answers.")] = None,
    weight: Annotated[float | None, typer.Option(help="Its share of the slots while requests wait.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait until a path over the new pools is proven.")] = 120.0,
    file: Annotated[
        Path | None, typer.Option(help="The deployment's topology file; not needed while one deployment is running.")
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(help="The --run-dir given to `sun launch`.")] = None,
) -> None:
    """Move a task to other pools without losing a request: it moves after a real request passed through them."""
    from sun_sglang.launch.discovery import running_deployment
    from sun_sglang.launch.router_access import read_access
    from sun_sglang.launch.router_client import RouterClient

    directory, state = running_deployment(file, run_dir)
    changes = {k: v for k, v in {"prefill": prefill, "decode": decode, "weight": weight}.items() if v is not None}
    if not changes:
        raise UserError("nothing to change; give --prefill, --decode or --weight")
    asyncio.run(_change(RouterClient(state.url, read_access(directory)), name, changes, timeout))


async def _change(client: RouterClient, name: str, changes: dict[str, Any], timeout: float) -> None:
    end = time.monotonic() + timeout
    async with client:
        while not (task := await client.change_task(name, changes))["moved"]:
            if time.monotonic() > end:
                raise LaunchError(
                    f"after {timeout:g} s no path over {task['prefill']} and {task['decode']} is proven; the old pools "
                    f"serve `{name}` until one is. `sun status` shows the reason"
                )
            await asyncio.sleep(_POLL)
    typer.echo(f"{name}: prefill {task['prefill']}, decode {task['decode']}, weight {task['weight']:g}")
