"""`sun bench`: measure throughput and latency of a deployment, or of any server with OpenAI's API, under load."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sun_sglang.bench.load.drive.load import AnyPlan
    from sun_sglang.bench.serving.result import BenchResult
    from sun_sglang.bench.serving.settings import BenchSettings
    from sun_sglang.bench.serving.targets.target import Target

EXAMPLE = "sun bench --zipf 1.5 --request-rate 4 --output run.json"
INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 and the number of the signal, as shells have it."""

_DEFAULT_CONCURRENCY = 8
_TARGET, _LOAD, _CONTENT, _PROTOCOL, _OUTPUT = "Target", "Load", "Requests", "Measurement", "Output"
_TRACE, _AGENTS = "Traces", "Agents"


def command(
    ctx: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(help="A topology file; default: the running deployment.", show_default=False),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            "-u",
            help="Measure this server instead: a router, or any server with OpenAI's API. OPENAI_API_KEY is its key.",
            show_default=False,
            rich_help_panel=_TARGET,
        ),
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(help="The --run-dir given to `sun launch`.", show_default=False, rich_help_panel=_TARGET),
    ] = None,
    tasks: Annotated[
        str,
        typer.Option(
            "--tasks",
            "--model-names",
            "-m",
            help="Tasks, with commas, the hottest first; default: all, in the target's order.",
            show_default=False,
            rich_help_panel=_TARGET,
        ),
    ] = "",
    zipf: Annotated[
        float,
        typer.Option(help="Popularity of the tasks: rank i has the share i^-ZIPF. 0: uniform.", rich_help_panel=_LOAD),
    ] = 0.0,
    hot_shift: Annotated[
        float | None,
        typer.Option(
            help="Move the ranking on by one task every so many seconds.", show_default=False, rich_help_panel=_LOAD
        ),
    ] = None,
    request_rate: Annotated[
        float | None,
        typer.Option(help="Open loop: requests per second.", show_default=False, rich_help_panel=_LOAD),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            help=f"Closed loop: requests in flight (default {_DEFAULT_CONCURRENCY}, without --request-rate). Open "
            "loop: at most so many.",
            show_default=False,
            rich_help_panel=_LOAD,
        ),
    ] = None,
    arrival_pattern: Annotated[
        str, typer.Option(help="poisson, constant or gamma.", rich_help_panel=_LOAD)
    ] = "poisson",
    arrival_smoothness: Annotated[
        float, typer.Option(help="gamma: the shape; below 1 is burstier than Poisson.", rich_help_panel=_LOAD)
    ] = 1.0,
    request_rate_ramp_duration: Annotated[
        float, typer.Option(help="Seconds in which the rate grows from 0.", rich_help_panel=_LOAD)
    ] = 0.0,
    concurrency_ramp_duration: Annotated[
        float, typer.Option(help="Seconds in which the concurrency grows from 1.", rich_help_panel=_LOAD)
    ] = 0.0,
    isl: Annotated[
        str,
        typer.Option(
            help="Prompt tokens: 512, uniform:LOW:HIGH or lognormal:MEDIAN:SIGMA[:MAX].", rich_help_panel=_CONTENT
        ),
    ] = "512",
    osl: Annotated[
        str, typer.Option(help="Output tokens, in the same form; enforced and verified.", rich_help_panel=_CONTENT)
    ] = "128",
    token_ids: Annotated[
        str, typer.Option(help="Range of the ids of random prompts, LOW:HIGH.", rich_help_panel=_CONTENT)
    ] = "64:250",
    input_file: Annotated[
        list[str] | None,
        typer.Option(
            help="Prompts or a trace: FILE for all tasks, or TASK=FILE; may be repeated.",
            show_default=False,
            rich_help_panel=_CONTENT,
        ),
    ] = None,
    custom_dataset_type: Annotated[
        str | None,
        typer.Option(
            help="single_turn, sharegpt, azure_trace or mooncake_trace; default: from the content.",
            show_default=False,
            rich_help_panel=_CONTENT,
        ),
    ] = None,
    random_seed: Annotated[
        int, typer.Option(help="The same seed sends the same requests.", rich_help_panel=_CONTENT)
    ] = 0,
    prompt_seed: Annotated[
        int | None,
        typer.Option(
            help="Another seed for the prompts' tokens alone: repeats a run without hits in a cache that it filled.",
            show_default=False,
            rich_help_panel=_CONTENT,
        ),
    ] = None,
    fixed_schedule_start_offset: Annotated[
        float | None,
        typer.Option(help="First millisecond that is replayed.", show_default=False, rich_help_panel=_TRACE),
    ] = None,
    fixed_schedule_end_offset: Annotated[
        float | None,
        typer.Option(help="Last millisecond that is replayed.", show_default=False, rich_help_panel=_TRACE),
    ] = None,
    synthesis_speedup_ratio: Annotated[
        float, typer.Option(help="2 replays twice as fast.", rich_help_panel=_TRACE)
    ] = 1.0,
    isl_block_size: Annotated[
        int, typer.Option(help="Tokens of a block of a Mooncake trace.", rich_help_panel=_TRACE)
    ] = 512,
    workload: Annotated[
        str, typer.Option(help="requests, or sessions of agents: react, reflexion.", rich_help_panel=_AGENTS)
    ] = "requests",
    agent_count: Annotated[
        int | None, typer.Option(help="Agents of a session.", show_default=False, rich_help_panel=_AGENTS)
    ] = None,
    agent_turns: Annotated[
        int | None, typer.Option(help="Turns of a session.", show_default=False, rich_help_panel=_AGENTS)
    ] = None,
    agent_initial_tokens: Annotated[
        int | None, typer.Option(help="Tokens of the first prompt.", show_default=False, rich_help_panel=_AGENTS)
    ] = None,
    agent_shared_tokens: Annotated[
        int | None,
        typer.Option(
            help="How many of them are the same in all sessions.", show_default=False, rich_help_panel=_AGENTS
        ),
    ] = None,
    agent_appended_tokens: Annotated[
        int | None, typer.Option(help="Tokens after each answer.", show_default=False, rich_help_panel=_AGENTS)
    ] = None,
    agent_output_tokens: Annotated[
        int | None, typer.Option(help="Tokens of an answer.", show_default=False, rich_help_panel=_AGENTS)
    ] = None,
    warmup_duration: Annotated[
        float, typer.Option(help="Seconds before the window.", rich_help_panel=_PROTOCOL)
    ] = 30.0,
    benchmark_duration: Annotated[float, typer.Option(help="Seconds of the window.", rich_help_panel=_PROTOCOL)] = 60.0,
    request_count: Annotated[
        int | None,
        typer.Option(help="Send at most so many requests.", show_default=False, rich_help_panel=_PROTOCOL),
    ] = None,
    request_timeout_seconds: Annotated[
        float, typer.Option(help="Seconds for one answer.", rich_help_panel=_PROTOCOL)
    ] = 600.0,
    goodput: Annotated[
        str,
        typer.Option(
            help='Objectives, such as "time_to_first_token:500 inter_token_latency:50", in milliseconds.',
            show_default=False,
            rich_help_panel=_PROTOCOL,
        ),
    ] = "",
    max_client_lag: Annotated[
        float,
        typer.Option(
            help="The run fails if this process is later than so many milliseconds (p99).", rich_help_panel=_PROTOCOL
        ),
    ] = 25.0,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the result as JSON.", show_default=False, rich_help_panel=_OUTPUT),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON instead of tables.", rich_help_panel=_OUTPUT)
    ] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of the result, and stop.", rich_help_panel=_OUTPUT)
    ] = False,
) -> None:
    """Measure how many tokens a deployment serves, and how fast, under a load over all of its tasks.

    After a warm-up, the requests that are completed in a window count. Exits with 1 if the result is not valid (this
    process was late, or nothing was completed), and with 130 after Ctrl-C, which writes what was measured until then.

    Closed loop, 8 requests in flight:  sun bench --zipf 1.5

    Open loop with objectives:  sun bench --request-rate 4 --goodput "time_to_first_token:500 inter_token_latency:50"

    Another server:  sun bench --url http://HOST:8000 --concurrency 32 --isl uniform:64:256

    A trace:  sun bench --input-file azure.csv --zipf 1.5 --synthesis-speedup-ratio 0.1
    """
    if schema:
        from sun_sglang.bench.serving.result import result_schema

        typer.echo(json.dumps(result_schema(), indent=2))
        return
    if url is not None and (file is not None or run_dir is not None):
        raise typer.BadParameter("--url names another server: leave the topology file and --run-dir out")
    from sun_sglang.bench.load.workload.settings import WorkloadSettings

    values = {name: value for name, value in ctx.params.items() if name in WorkloadSettings.model_fields}
    values["input_file"] = tuple(input_file or ())
    if request_rate is None and concurrency is None and not input_file:
        values["concurrency"] = _DEFAULT_CONCURRENCY
    _check_output(output)
    target = asyncio.run(_find(file, url, run_dir))
    values["tasks"] = target.choose([name.strip() for name in tasks.split(",")] if tasks else [])
    settings = _settings(values, goodput, request_timeout_seconds, max_client_lag)
    result = _measure(target, settings)
    _print(result, as_json=as_json)
    if output is not None:
        from sun_sglang.bench.serving.result import write_result

        write_result(result, output)
    _exit(result, output)


def _check_output(output: Path | None) -> None:
    """Raise BenchError where the file could not be written after the run."""
    from sun_sglang.bench.load.errors import FlagError

    if output is not None and (output.is_dir() or not os.access(output.parent, os.W_OK)):
        raise FlagError("output", f"{output} cannot be written; name a file in a directory that exists")


async def _find(file: Path | None, url: str | None, run_dir: Path | None) -> Target:
    from sun_sglang.bench.serving.targets.running import deployment_target, url_target

    if url is not None:
        return await url_target(url, os.environ)
    return await deployment_target(file, run_dir)


def _settings(values: dict[str, Any], goodput: str, timeout: float, max_lag: float) -> BenchSettings:
    from sun_sglang.bench.load.metrics.goodput import parse_goodput
    from sun_sglang.bench.load.workload.settings import workload_settings
    from sun_sglang.bench.serving.settings import bench_settings

    return bench_settings(
        workload=workload_settings(**values),
        goodput=parse_goodput(goodput) if goodput else {},
        request_timeout_seconds=timeout,
        max_client_lag=max_lag,
    )


def _measure(target: Target, settings: BenchSettings) -> BenchResult:
    """Run the benchmark with its live view on stderr."""
    from rich.console import Console

    from sun_sglang.bench.load.workload.build import build
    from sun_sglang.bench.serving.run import NothingMeasuredError
    from sun_sglang.bench.serving.session import run_benchmark
    from sun_sglang.cli.display.bench_live import live_view

    plan: AnyPlan = build(settings.workload)
    console = Console(stderr=True, highlight=False)
    command_line = shlex.join(["sun", *sys.argv[1:]])
    try:
        with live_view(console, settings, target.name) as view:
            return run_benchmark(target, settings, plan, command=command_line, show=view.show)
    except NothingMeasuredError as e:
        console.print(str(e), markup=False, soft_wrap=True)
        sys.exit(INTERRUPTED)


def _print(result: BenchResult, *, as_json: bool) -> None:
    from rich.console import Console

    from sun_sglang.cli.display.bench_tables import render_result

    if as_json:
        typer.echo(result.model_dump_json(indent=2))
    else:
        Console(highlight=False).print(render_result(result))


def _exit(result: BenchResult, output: Path | None) -> None:
    """State where the result is and why it is not valid, and exit with its status."""
    from rich.console import Console

    from sun_sglang.bench.load.drive.stop import Ending

    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    if output is not None:
        errors.print(f"written to {output}", markup=False)
    for problem in result.run.problems:
        errors.print("[bold red]error:[/]", end=" ")
        errors.print(f"the result is not valid: {problem}", markup=False)
    if result.run.ending is Ending.CUT_SHORT:
        sys.exit(INTERRUPTED)
    if not result.run.valid:
        sys.exit(1)
