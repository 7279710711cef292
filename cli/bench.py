"""`sun bench`: measure throughput and latency of a deployment, or of any server with OpenAI's API, under load."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "sun bench --zipf 1.5 --request-rate 4 --output run.json"
DEFAULT_CONCURRENCY = 8
"""Requests in flight where the user gives neither a rate nor a concurrency."""

_NUMBERS = "NUMBER[,...]"
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
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="A topology file that runs; default: the running deployment. With --compare: files to start. With "
            "--from: results.",
            show_default=False,
        ),
    ] = None,
    compare: Annotated[
        bool,
        _target("--compare", help="Start the systems of these files in turn, and compare the first with the others."),
    ] = False,
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
        _target(help="The --run-dir given to `sun launch`. With --compare: a directory for logs."),
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
    cores: Annotated[
        str,
        _target(
            help='--compare: cores of processes by role, such as "prefill:0 decode:1-2"; roles: prefill, decode, '
            "server, router, client."
        ),
    ] = "",
    zipf: Annotated[
        str,
        _load(metavar=_NUMBERS, help="Popularity of the tasks: rank i has the share i^-ZIPF. 0: uniform."),
    ] = "0",
    hot_shift: Annotated[
        float | None,
        _load(help="Move the ranking on by one task every so many seconds."),
    ] = None,
    request_rate: Annotated[
        str | None,
        _load(metavar=_NUMBERS, help="Open loop: requests per second."),
    ] = None,
    concurrency: Annotated[
        str | None,
        _load(
            metavar=_NUMBERS,
            help=f"Closed loop: requests in flight (default {DEFAULT_CONCURRENCY}, without --request-rate). Open "
            "loop: at most so many.",
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
    num_profile_runs: Annotated[int, _protocol(help="Repetitions; the tables then show medians.")] = 1,
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
    find_max_rate: Annotated[
        bool,
        _protocol(help="Search the highest rate at which enough requests are within --goodput."),
    ] = False,
    goodput_ratio: Annotated[float, _protocol(help="--find-max-rate: the share of requests that is enough.")] = 0.95,
    max_client_lag: Annotated[
        float,
        _protocol(help="The run fails if this process is later than so many milliseconds (p99)."),
    ] = 25.0,
    output: Annotated[
        Path | None,
        _output(
            "--output", "-o", help="Write the result as JSON, after each run. The same command again continues it."
        ),
    ] = None,
    report: Annotated[
        Path | None,
        _output(help="Write one HTML page with tables and figures; it needs the extra `bench`."),
    ] = None,
    from_files: Annotated[
        bool,
        _output("--from", help="Measure nothing: show the results of earlier runs, the FILES, side by side."),
    ] = False,
    as_json: Annotated[bool, _output("--json", help="Print the result as JSON instead of tables.")] = False,
    schema: Annotated[bool, _output("--schema", help="Print the JSON schema of the result, and stop.")] = False,
) -> None:
    """Measure how many tokens a deployment serves, and how fast, under a load over all of its tasks.

    After a warm-up, the requests that are completed in a window count.

    A list (1,2,4) at --request-rate, --concurrency, --zipf, --isl or --osl measures every combination.

    Exits with 1 if the result is not valid, and with 130 after Ctrl-C, which writes what was measured until then.

    Closed loop, 8 requests in flight:  sun bench --zipf 1.5

    Open loop with objectives:  sun bench --request-rate 4 --goodput "time_to_first_token:500 inter_token_latency:50"

    Another server:  sun bench --url http://HOST:8000 --concurrency 32 --isl uniform:64:256

    A grid, three times:  sun bench --zipf 0,1.5 --concurrency 2,8 --num-profile-runs 3 --output grid.json

    Systems in turn:  sun bench --compare sun.yaml isolated.yaml --zipf 1.5 --num-profile-runs 3

    A trace:  sun bench --input-file azure.csv --zipf 1.5 --synthesis-speedup-ratio 0.1

    A page of earlier runs:  sun bench --from a.json b.json --report page.html
    """
    if schema:
        from sun_sglang.bench.serving.result import result_schema

        typer.echo(json.dumps(result_schema(), indent=2))
        return
    if from_files:
        _check_from(ctx)
        from sun_sglang.cli.benchmark.saved import show_results

        show_results(files or (), report)
        return
    if url is not None and (files or run_dir is not None):
        raise typer.BadParameter("--url names another server: leave the topology file and --run-dir out")
    if compare and not files:
        raise typer.BadParameter("--compare starts the systems of files: name them")
    if files and len(files) > 1 and not compare:
        raise typer.BadParameter("one running deployment is measured; --compare starts several systems in turn")
    if cores and not compare:
        raise typer.BadParameter("--cores binds the processes that --compare starts")
    from sun_sglang.cli.benchmark.run import run_bench

    run_bench(ctx.params)


def _check_from(ctx: typer.Context) -> None:
    """Refuse a flag that means something only where something is measured."""
    for name in ctx.params:
        source = ctx.get_parameter_source(name)
        given = source is not None and source.name == "COMMANDLINE"
        if given and name not in ("files", "from_files", "report"):
            flag = next(option.opts[0] for option in ctx.command.params if option.name == name)
            raise typer.BadParameter(f"--from measures nothing: leave {flag} out")
    if not ctx.params["files"]:
        raise typer.BadParameter("--from needs the files of results: sun bench --from a.json b.json")
