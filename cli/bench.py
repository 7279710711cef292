"""`sun bench`: measure throughput and latency of a deployment, or of any server with OpenAI's API, under load."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
from functools import partial
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
# one panel of the help for each kind of option
_target = partial(typer.Option, rich_help_panel="Target")
_load = partial(typer.Option, rich_help_panel="Load")
_content = partial(typer.Option, rich_help_panel="Requests")
_trace = partial(typer.Option, rich_help_panel="Traces")
_agents = partial(typer.Option, rich_help_panel="Agents")
_protocol = partial(typer.Option, rich_help_panel="Measurement")
_output = partial(typer.Option, rich_help_panel="Output")


def command(
    ctx: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(help="A topology file; default: the running deployment."),
    ] = None,
    url: Annotated[
        str | None,
        _target(
            "--url",
            "-u",
            help="Measure this server instead: a router, or any server with OpenAI's API. OPENAI_API_KEY is its key.",
        ),
    ] = None,
    run_dir: Annotated[
        Path | None,
        _target(help="The --run-dir given to `sun launch`."),
    ] = None,
    tasks: Annotated[
        str,
        _target(
            "--tasks",
            "--model-names",
            "-m",
            help="Tasks, with commas, the hottest first; default: all, in the target's order.",
        ),
    ] = "",
    zipf: Annotated[
        float,
        _load(help="Popularity of the tasks: rank i has the share i^-ZIPF. 0: uniform."),
    ] = 0.0,
    hot_shift: Annotated[
        float | None,
        _load(help="Move the ranking on by one task every so many seconds."),
    ] = None,
    request_rate: Annotated[
        float | None,
        _load(help="Open loop: requests per second."),
    ] = None,
    concurrency: Annotated[
        int | None,
        _load(
            help=f"Closed loop: requests in flight (default {_DEFAULT_CONCURRENCY}, without --request-rate). Open "
            "loop: at most so many."
        ),
    ] = None,
    arrival_pattern: Annotated[str, _load(help="poisson, constant or gamma.")] = "poisson",
    arrival_smoothness: Annotated[float, _load(help="gamma: the shape; below 1 is burstier than Poisson.")] = 1.0,
    request_rate_ramp_duration: Annotated[float, _load(help="Seconds in which the rate grows from 0.")] = 0.0,
    concurrency_ramp_duration: Annotated[float, _load(help="Seconds in which the concurrency grows from 1.")] = 0.0,
    isl: Annotated[
        str,
        _content(help="Prompt tokens: 512, uniform:LOW:HIGH or lognormal:MEDIAN:SIGMA[:MAX]."),
    ] = "512",
    osl: Annotated[str, _content(help="Output tokens, in the same form; enforced and verified.")] = "128",
    token_ids: Annotated[str, _content(help="Range of the ids of random prompts, LOW:HIGH.")] = "64:250",
    input_file: Annotated[
        list[str] | None,
        _content(help="Prompts or a trace: FILE for all tasks, or TASK=FILE; may be repeated."),
    ] = None,
    custom_dataset_type: Annotated[
        str | None,
        _content(help="single_turn, sharegpt, azure_trace or mooncake_trace; default: from the content."),
    ] = None,
    random_seed: Annotated[int, _content(help="The same seed sends the same requests.")] = 0,
    prompt_seed: Annotated[
        int | None,
        _content(
            help="Another seed for the prompts' tokens alone: repeats a run without hits in a cache that it filled."
        ),
    ] = None,
    fixed_schedule_start_offset: Annotated[
        float | None,
        _trace(help="First millisecond that is replayed."),
    ] = None,
    fixed_schedule_end_offset: Annotated[
        float | None,
        _trace(help="Last millisecond that is replayed."),
    ] = None,
    synthesis_speedup_ratio: Annotated[float, _trace(help="2 replays twice as fast.")] = 1.0,
    isl_block_size: Annotated[int, _trace(help="Tokens of a block of a Mooncake trace.")] = 512,
    workload: Annotated[str, _agents(help="requests, or sessions of agents: react, reflexion.")] = "requests",
    agent_count: Annotated[int | None, _agents(help="Agents of a session.")] = None,
    agent_turns: Annotated[int | None, _agents(help="Turns of a session.")] = None,
    agent_initial_tokens: Annotated[int | None, _agents(help="Tokens of the first prompt.")] = None,
    agent_shared_tokens: Annotated[
        int | None,
        _agents(help="How many of them are the same in all sessions."),
    ] = None,
    agent_appended_tokens: Annotated[int | None, _agents(help="Tokens after each answer.")] = None,
    agent_output_tokens: Annotated[int | None, _agents(help="Tokens of an answer.")] = None,
    warmup_duration: Annotated[float, _protocol(help="Seconds before the window.")] = 30.0,
    benchmark_duration: Annotated[float, _protocol(help="Seconds of the window.")] = 60.0,
    request_count: Annotated[
        int | None,
        _protocol(help="Send at most so many requests."),
    ] = None,
    request_timeout_seconds: Annotated[float, _protocol(help="Seconds for one answer.")] = 600.0,
    goodput: Annotated[
        str,
        _protocol(help='Objectives, such as "time_to_first_token:500 inter_token_latency:50", in milliseconds.'),
    ] = "",
    max_client_lag: Annotated[
        float,
        _protocol(help="The run fails if this process is later than so many milliseconds (p99)."),
    ] = 25.0,
    output: Annotated[
        Path | None,
        _output("--output", "-o", help="Write the result as JSON."),
    ] = None,
    as_json: Annotated[bool, _output("--json", help="Print the result as JSON instead of tables.")] = False,
    schema: Annotated[bool, _output("--schema", help="Print the JSON schema of the result, and stop.")] = False,
) -> None:
    """Measure how many tokens a deployment serves, and how fast, under a load over all of its tasks.

    After a warm-up, the requests that are completed in a window count.

    Exits with 1 if the result is not valid, and with 130 after Ctrl-C, which writes what was measured until then.

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
    for problem in (problem for run in result.runs for problem in run.problems):
        errors.print("[bold red]error:[/]", end=" ")
        errors.print(f"the result is not valid: {problem}", markup=False)
    if any(run.ending is Ending.CUT_SHORT for run in result.runs):
        sys.exit(INTERRUPTED)
    if not all(run.valid for run in result.runs):
        sys.exit(1)
