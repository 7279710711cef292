"""`sun check`: check a topology without starting anything."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sun_sglang.errors import TopologyError, UserError

if TYPE_CHECKING:
    from sun_sglang.contracts.adapter import AdapterRef
    from sun_sglang.launch.deployment import Prepared

EXAMPLE = "sun check configs/demo/sun.yaml"


def command(
    file: Annotated[Path, typer.Argument(help="A topology file.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, also for an error.")] = False,
    place: Annotated[
        Literal["local", "ray"] | None,
        typer.Option(help="Where workers would run; as in `sun launch`.", show_default="the topology's"),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="The Ray cluster; as in `sun launch`.", show_default="the topology's, else auto")
    ] = None,
) -> None:
    """Check a topology: the file, SGLang flags, models, and what this machine (or its Ray cluster) would run."""
    from sun_sglang.launch.deployment import prepare

    try:
        prepared = asyncio.run(prepare(file, Path(".sun"), place_kind=place, address=address, require_port=False))
    except UserError as e:
        if not as_json:
            raise
        typer.echo(json.dumps(describe_error(e), indent=2))
        sys.exit(1)
    if as_json:
        typer.echo(json.dumps(describe(prepared), indent=2))
    else:
        _show(prepared)


def describe(prepared: Prepared) -> dict[str, Any]:
    """Return the JSON of `--json` for a topology without a fault; the ports of the commands are examples."""
    from sun_sglang.launch.places.local.place import example_commands

    topology, findings, plan = prepared.topology, prepared.findings, prepared.plan
    return {
        "ok": True,
        "tasks": {
            name: {
                "prefill": task.prefill,
                "decode": task.decode,
                "adapter": _adapter(task.adapter),
                "module": None if task.module is None else task.module.model_dump(),
            }
            for name, task in plan.fleet.tasks.items()
        },
        "pools": {
            name: {
                "role": pool.role,
                "model": pool.model,
                "replicas": pool.replicas,
                "weights": identity.weights if (identity := findings.pools[name].identity) else None,
            }
            for name, pool in topology.pools.items()
        },
        "workers": [
            {"name": w.name, "gpus": w.gpus, "threads": w.threads, "argv": command.argv, "env": command.env}
            for w, command in zip(plan.workers, example_commands(plan.workers), strict=True)
        ],
        "transfer": plan.transfer.model_dump(),
        "notes": [*findings.notes, *plan.notes],
    }


def _adapter(ref: AdapterRef | None) -> dict[str, Any] | None:
    if ref is None:
        return None
    shown = ref.model_dump(include={"directory", "rank", "target_modules", "base", "tuned_for"})
    return {"name": ref.name, **shown, "fingerprint": ref.fingerprint is not None}


def describe_error(error: UserError) -> dict[str, Any]:
    """Return the JSON of `--json` for a topology with a fault."""
    where = error.where if isinstance(error, TopologyError) else None
    return {"ok": False, "error": {"type": type(error).__name__, "where": where, "message": str(error)}}


def _show(prepared: Prepared) -> None:
    from rich.console import Console
    from rich.table import Table

    topology, findings, plan = prepared.topology, prepared.findings, prepared.plan
    console = Console(highlight=False)
    pools = Table("pool", "role", "workers", "on", "weights", "model", title="Pools", title_justify="left")
    for name, pool in topology.pools.items():
        workers = [w for w in plan.workers if w.pool == name]
        gpus = " ".join(",".join(map(str, w.gpus)) for w in workers)
        on_gpus = f"GPU {gpus}" if topology.place.kind == "local" else f"{len(workers[0].gpus)} GPU each"
        place = on_gpus if gpus.strip() else "CPU"
        identity = findings.pools[name].identity
        pools.add_row(name, pool.role, str(pool.replicas), place, identity.weights if identity else "?", pool.model)
    has_adapters = any(task.adapter is not None for task in plan.fleet.tasks.values())
    has_modules = any(task.module is not None for task in plan.fleet.tasks.values())
    columns = ("adapter", "rank", "fingerprint") if has_adapters else ()
    columns = (*columns, "module") if has_modules else columns
    tasks = Table("task", "prefill", "decode", *columns, title="Tasks", title_justify="left")
    for name, task in plan.fleet.tasks.items():
        ref = task.adapter
        adapter = (ref.name, str(ref.rank), "recorded" if ref.fingerprint else "none") if ref else ("", "", "")
        shown = adapter if has_adapters else ()
        tasks.add_row(name, task.prefill, task.decode, *shown, *((task.module.revision,) if task.module else ()))
    console.print(pools)
    console.print(tasks)
    if topology.place.kind == "ray":
        console.print(f"Place: the Ray cluster at `{topology.place.address}`.")
    console.print(f"KV transfer: {plan.transfer.backend}. {plan.transfer.reason}")
    console.print(f"Router: {plan.router.url if topology.router.port else 'a free port on ' + plan.router.host}")
    for note in (*findings.notes, *plan.notes):
        console.print(f"[yellow]note:[/] {note}")
    console.print("[green]Nothing wrong was found.[/]")
