"""`sun task`: list, add, change and remove the tasks of a running deployment."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from sun_sglang.errors import LaunchError, UserError

if TYPE_CHECKING:
    from sun_sglang.contracts.tasks_report import TaskReport, TasksReport
    from sun_sglang.launch.router_client import RouterClient

EXAMPLE = "sun task add sql --prefill base --decode base --adapter adapters/sql"
ACTIONS = ("list", "add", "update", "remove")
_OWN_WEIGHTS = ("adapter", "no_adapter", "model", "no_model")
_POLL = 0.2
_SECONDS = 120.0
# every worker may have to read a module of many GB
_COPY_SECONDS = 900.0


class _Fields(NamedTuple):
    """The options that set a field of the task."""

    prefill: str | None
    decode: str | None
    adapter: Path | None
    no_adapter: bool
    model: Path | None
    no_model: bool
    weight: float | None
    max_requests: int | None
    max_tokens: int | None
    any_decoder: bool | None
    failover: bool | None


def command(
    action: Annotated[str, typer.Argument(help="list, add, update or remove.", show_default=False)],
    name: Annotated[str | None, typer.Argument(help="The task; not for `list`.", show_default=False)] = None,
    prefill: Annotated[str | None, typer.Option(help="The pool that prefills its prompts.")] = None,
    decode: Annotated[str | None, typer.Option(help="The pool that decodes its answers.")] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="Directory of the LoRA adapter that its prompts are prefilled with.")
    ] = None,
    no_adapter: Annotated[bool, typer.Option("--no-adapter", help="update: serve it without an adapter.")] = False,
    model: Annotated[
        Path | None,
        typer.Option(help="Directory of the module that prefills its prompts in turn with those of other tasks."),
    ] = None,
    no_model: Annotated[bool, typer.Option("--no-model", help="update: serve it with the pool's own model.")] = False,
    weight: Annotated[float | None, typer.Option(help="Its share of the slots while requests wait.")] = None,
    max_requests: Annotated[int | None, typer.Option(help="Most answers of the task in flight at once.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Most expected work in flight, in tokens.")] = None,
    any_decoder: Annotated[
        bool | None,
        typer.Option("--any-decoder/--its-decoder", help="Serve it although it was tuned for another decoder."),
    ] = None,
    failover: Annotated[
        bool | None,
        typer.Option("--failover/--no-failover", help="Go on with its answers when their decode worker is lost."),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(help="Seconds to wait until every router process serves it so; default: 120, with --model 900."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="The deployment's topology file; not needed while one deployment is running.")
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(help="The --run-dir given to `sun launch`.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="list: print JSON.")] = False,
) -> None:
    """List, add, change or remove tasks without losing a request.

    A task with an adapter, or with a model of its own, is announced once every prefill worker of its pool has it and
    has shown its effect; if one refuses, nothing changes. An updated task is served as before until then. A removed
    task answers the requests that it has, and refuses new ones.
    """
    from sun_sglang.launch.discovery import running_deployment
    from sun_sglang.launch.router_access import read_access
    from sun_sglang.launch.router_client import RouterClient

    _check(action, name)
    fields = _changes(
        _Fields(
            prefill=prefill,
            decode=decode,
            adapter=adapter,
            no_adapter=no_adapter,
            model=model,
            no_model=no_model,
            weight=weight,
            max_requests=max_requests,
            max_tokens=max_tokens,
            any_decoder=any_decoder,
            failover=failover,
        )
    )
    if action == "update" and not fields:
        raise UserError("nothing to change; give --prefill, --decode, --adapter, --model, --weight or a cap")
    if action in ("list", "remove") and fields:
        raise UserError(f"`sun task {action}` takes no fields of a task")
    directory, state = running_deployment(file, run_dir)
    client = RouterClient(state.url, read_access(directory))
    seconds = timeout or (_COPY_SECONDS if fields.get("model") else _SECONDS)
    asyncio.run(_run(client, action, name or "", fields, seconds, as_json))


def _check(action: str, name: str | None) -> None:
    if action not in ACTIONS:
        raise UserError(
            f"`sun task` has the actions {', '.join(ACTIONS)}; `sun task {action} ...` is now "
            f"`sun task update {action} ...`"
        )
    if action != "list" and name is None:
        raise UserError(f"which task? `sun task {action} NAME`; `sun task list` lists them")
    if action == "list" and name is not None:
        raise UserError("`sun task list` lists every task; give no name")


def _changes(given: _Fields) -> dict[str, Any]:
    """Return the fields to set, as the router's API has them."""
    if given.adapter is not None and given.model is not None:
        raise UserError("give --adapter or --model, not both: an adapter is one of the pool's model")
    fields = {name: v for name, v in given._asdict().items() if v is not None and name not in _OWN_WEIGHTS}
    for name, path, without in (
        ("adapter", given.adapter, given.no_adapter),
        ("model", given.model, given.no_model),
    ):
        if path is not None and without:
            raise UserError(f"give --{name} or --no-{name}, not both")
        if path is not None:
            # the router and its workers have other working directories
            fields[name] = str(path.resolve())
        elif without:
            fields[name] = None
    return fields


async def _run(
    client: RouterClient, action: str, name: str, fields: dict[str, Any], timeout: float, as_json: bool
) -> None:
    async with client:
        match action:
            case "list":
                _show(await _report(client), as_json)
            case "add":
                await client.add_task(name, fields, timeout)
                await _wait(client, name, timeout)
            case "update":
                await client.change_task(name, fields, timeout)
                await _wait(client, name, timeout)
            case "remove":
                left = (await client.remove_task(name))["in_flight"]
                rest = f"; {left} requests in flight are served to their end" if left else ""
                typer.echo(f"{name}: removed{rest}")


async def _report(client: RouterClient) -> TasksReport:
    if (report := await client.tasks()) is None:
        raise LaunchError("the router does not answer /tasks")
    return report


async def _wait(client: RouterClient, name: str, timeout: float) -> None:
    """Wait until every process of the router serves a task as it was set, and show the task."""
    end = time.monotonic() + timeout
    while True:
        report = await client.tasks()
        task = report.tasks.get(name) if report is not None else None
        if task is not None and task.ready and not task.moving:
            typer.echo(f"{name}: {_describe(task)}")
            return
        if time.monotonic() > end:
            raise LaunchError(
                f"after {timeout:g} s `{name}` is not served so by every process of the router; `sun status` shows the "
                "reason"
            )
        await asyncio.sleep(_POLL)


def _describe(task: TaskReport) -> str:
    weights = f", adapter {task.adapter.name} ({task.adapter.directory})" if task.adapter else ""
    weights = f", module {task.module.revision} ({task.module.directory})" if task.module else weights
    return f"prefill {task.prefill.pool}, decode {task.decode.pool}{weights}"


def _show(report: TasksReport, as_json: bool) -> None:
    if as_json:
        typer.echo(report.model_dump_json(indent=2, include={"tasks"}))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("task", "state", "prefill", "decode", "adapter", "rank", "module", "in flight")
    for name, task in report.tasks.items():
        state = "moving" if task.moving else "ready" if task.ready else "not ready"
        adapter = (task.adapter.name, str(task.adapter.rank)) if task.adapter else ("", "")
        module = task.module.revision if task.module else ""
        table.add_row(name, state, task.prefill.pool, task.decode.pool, *adapter, module, str(task.in_flight))
    Console(highlight=False).print(table)
