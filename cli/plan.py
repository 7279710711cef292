"""`sun plan`: how many workers a load needs with each serving system, by simulation."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = 'sun plan sun.yaml --trace azure.csv --slo "time_to_first_token:500 inter_token_latency:25" --gpu h100'
SYSTEMS = "sun,qsun,isolated,prefillshare"

_load = partial(typer.Option, rich_help_panel="Load")
_trace = partial(typer.Option, rich_help_panel="Traces")
_costs = partial(typer.Option, rich_help_panel="Step times")
_plan = partial(typer.Option, rich_help_panel="Plan")
_output = partial(typer.Option, rich_help_panel="Output")


def command(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A topology file: its tasks and its router.", show_default=False)],
    slo: Annotated[
        str,
        _plan(
            "--slo",
            "--goodput",
            help='Objectives, such as "time_to_first_token:500 inter_token_latency:25", in milliseconds.',
            show_default=False,
        ),
    ],
    goodput_ratio: Annotated[float, _plan(help="The share of requests that is to meet them.")] = 0.95,
    systems: Annotated[str, _plan(help="The systems that are compared, with commas.")] = SYSTEMS,
    max_workers: Annotated[int, _plan(min=1, help="Most workers of one pool.")] = 1024,
    costs: Annotated[
        Path | None,
        _costs(help="A cost file; default: that of the file's emulated workers.", show_default=False),
    ] = None,
    quantized_costs: Annotated[
        Path | None, _costs(help="The cost file of decode workers with 4-bit weights, for qsun.", show_default=False)
    ] = None,
    gpu: Annotated[
        str | None,
        _costs(help="Take the step times of this GPU from AIConfigurator; it needs the extra `plan`."),
    ] = None,
    model: Annotated[
        str | None, _costs(help="The model; default: that of the file's first decode pool.", show_default=False)
    ] = None,
    calibrate: Annotated[
        Path | None,
        _costs(help="A result of `sun bench --output` on this GPU, which corrects the step times.", show_default=False),
    ] = None,
    zipf: Annotated[float, _load(help="Popularity of the tasks: rank i has the share i^-ZIPF. 0: uniform.")] = 0.0,
    hot_shift: Annotated[float | None, _load(help="Move the ranking on by one task every so many seconds.")] = None,
    request_rate: Annotated[float | None, _load(help="Requests per second.", show_default=False)] = None,
    arrival_pattern: Annotated[str, _load(help="poisson, constant or gamma.")] = "poisson",
    arrival_smoothness: Annotated[float, _load(help="gamma: the shape; below 1 is burstier than Poisson.")] = 1.0,
    isl: Annotated[str, _load(help="Prompt tokens: 512, uniform:LOW:HIGH or lognormal:MEDIAN:SIGMA[:MAX].")] = "512",
    osl: Annotated[str, _load(help="Output tokens, in the same form.")] = "128",
    random_seed: Annotated[int, _load(help="The same seed gives the same plan.")] = 0,
    warmup_duration: Annotated[float | None, _load(help="Seconds before those that count.")] = None,
    benchmark_duration: Annotated[
        float | None, _load(help="Seconds that count (default 600; of a trace, all).", show_default=False)
    ] = None,
    input_file: Annotated[
        list[str] | None,
        _trace("--trace", "--input-file", help="A trace: FILE, or TASK=FILE; may be repeated.", show_default=False),
    ] = None,
    custom_dataset_type: Annotated[
        str | None, _trace(help="azure_trace or mooncake_trace; default: from the content.", show_default=False)
    ] = None,
    fixed_schedule_start_offset: Annotated[float | None, _trace(help="First millisecond that is replayed.")] = None,
    fixed_schedule_end_offset: Annotated[float | None, _trace(help="Last millisecond that is replayed.")] = None,
    synthesis_speedup_ratio: Annotated[float, _trace(help="2 replays twice as fast.")] = 1.0,
    isl_block_size: Annotated[int, _trace(help="Tokens of a block of a Mooncake trace.")] = 512,
    as_json: Annotated[bool, _output("--json", help="Print one JSON object instead of the table.")] = False,
    plot: Annotated[
        Path | None, _output(help="Draw the GPUs of each system into this file; it needs the extra `bench`.")
    ] = None,
) -> None:
    """Simulate a load, and find the fewest workers with which each serving system meets the objectives.

    The tasks, and the policies and limits of the router, are those of the file. With `sun` and `qsun` all tasks share
    decode workers, with `prefillshare` prefill workers, and with `isolated` none. The simulation is in virtual time,
    and nothing is started.

    A rate:  sun plan sun.yaml --request-rate 20 --zipf 1.5 --isl 1024 --osl 256 --slo "inter_token_latency:20"

    Step times that a `sun bench` run corrects:  sun plan sun.yaml ... --gpu a100 --calibrate run.json
    """
    from sun_sglang.cli.planning.plot import draw_plan, require_drawable
    from sun_sglang.cli.planning.run import run_plan
    from sun_sglang.cli.planning.table import show_plan

    if plot is not None:
        require_drawable(plot)
    result = run_plan(ctx.params, quiet=as_json)
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        show_plan(result)
    if plot is not None:
        draw_plan(result, plot)
