"""`sun task`: a task of a running deployment gets another prefill model, another decode pool, or another share."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from sun_sglang.cli.status import the_only
from sun_sglang.errors import LaunchError, UserError
from sun_sglang.launch.router_access import read_access
from sun_sglang.launch.router_client import RouterClient

EXAMPLE = "sun task math --prefill math-v2"
_POLL = 0.2


def command(
    name: Annotated[str, typer.Argument(help="The task; a new one needs both pools.", show_default=False)],
    prefill: Annotated[str | None, typer.Option(help="The pool that prefills it from now on.")] = None,
    decode: Annotated[str | None, typer.Option(help="The pool that decodes it from now on.")] = None,
    weight: Annotated[float | None, typer.Option(help="Its share while requests wait.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait until the new pools have proven themselves.")] = 120.0,
    file: Annotated[Path | None, typer.Option(help="The deployment's topology file; not needed for one.")] = None,
    run_dir: Annotated[Path | None, typer.Option(help="The directory given to `sun launch`.")] = None,
) -> None:
    """Move a task to other pools without losing a request: it moves once a real request went through them."""
    directory, state = the_only(file, run_dir)
    changed = {k: v for k, v in {"prefill": prefill, "decode": decode, "weight": weight}.items() if v is not None}
    if not changed:
        raise UserError("nothing to change; give --prefill, --decode or --weight")
    asyncio.run(_run(RouterClient(state.url, read_access(directory)), name, changed, timeout))


async def _run(client: RouterClient, name: str, changed: dict[str, Any], timeout: float) -> None:
    path = f"/tasks/{quote(name)}"
    end = time.monotonic() + timeout
    async with client:
        while not (said := await client.call("PUT", path, changed))["moved"]:
            if time.monotonic() > end:
                raise LaunchError(
                    f"after {timeout:g} s no path over {said['prefill']} and {said['decode']} is proven; the old pools "
                    f"serve `{name}` until one is. `sun status` says why"
                )
            await asyncio.sleep(_POLL)
    typer.echo(f"{name}: prefill {said['prefill']}, decode {said['decode']}, weight {said['weight']:g}")
