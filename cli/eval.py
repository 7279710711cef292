"""`sun eval`: measure the accuracy of tasks, served by a router or without servers on the same computation."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from sun_sglang.errors import UserError

if TYPE_CHECKING:
    from sun_sglang.contracts.scheme import Side
    from sun_sglang.evaluation.endpoint import Endpoint
    from sun_sglang.evaluation.exact_match import ExactMatch

EXAMPLE = "sun eval math=configs/eval/demo_math.yaml tool=configs/eval/demo_tool.yaml --served configs/demo/sun.yaml"
_PROMPTS = ("messages", "template", "plain")
# options, by the name of their parameter, of one of the two modes
_SERVED_ONLY = (
    "prompt",
    "few_shot",
    "concurrency",
    "max_tokens",
    "timeout",
    "include_path",
    "tokenizer",
    "run_unsafe_code",
    "answers",
    "harness_dir",
)
_OFFLINE_ONLY = ("prefill", "decode", "first_token", "threads")


def command(
    context: typer.Context,
    asked: Annotated[
        list[str],
        typer.Argument(
            metavar="TASK=BENCHMARK...",
            help="TASK: a model name at the router. BENCHMARK: a task of lm-eval (gsm8k, gsm_plus, humaneval), an "
            "lm-eval YAML file, evalplus:humaneval, evalplus:mbpp, or bfcl:MODEL:CATEGORY; several with commas. "
            "Without servers: one file of questions in any format that sun train reads.",
            show_default=False,
        ),
    ],
    served: Annotated[
        str | None,
        typer.Option(
            help="Measure served tasks: the router's URL, or the topology file of a deployment of this machine. "
            "OPENAI_API_KEY is the key where the router requires one.",
            show_default=False,
        ),
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(help="In place of a topology file in --served: the --run-dir of a launch.", show_default=False),
    ] = None,
    prompt: Annotated[
        str,
        typer.Option(
            help="messages: the worker renders the chat template. template: this command renders it, for benchmarks "
            "that begin the answer (humaneval_instruct). plain: no template."
        ),
    ] = "messages",
    few_shot: Annotated[
        int | None, typer.Option(help="Number of solved questions in the prompt; default: the benchmark's.", min=0)
    ] = None,
    limit: Annotated[int, typer.Option(help="Send this many questions; 0 for all.", min=0)] = 0,
    concurrency: Annotated[int, typer.Option(help="Requests in flight.", min=1)] = 32,
    max_tokens: Annotated[
        int, typer.Option(help="Tokens of an answer, where the benchmark sets no limit.", min=1)
    ] = 512,
    timeout: Annotated[int, typer.Option(help="Seconds for one answer.", min=1)] = 300,
    include_path: Annotated[
        Path | None,
        typer.Option(help="Directory of further lm-eval YAML files, which are then found by name.", show_default=False),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="Directory of the tasks' tokenizer, where --served is a URL.", show_default=False),
    ] = None,
    run_unsafe_code: Annotated[
        bool,
        typer.Option("--run-unsafe-code", help="Run code that models write on this machine (HumanEval, EvalPlus)."),
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write the report as JSON.", show_default=False)] = None,
    answers: Annotated[
        Path | None, typer.Option(help="Write each prompt and answer of lm-eval as JSONL.", show_default=False)
    ] = None,
    harness_dir: Annotated[Path, typer.Option(help="Directory for the files of EvalPlus and BFCL.")] = Path(
        "build/eval"
    ),
    prefill: Annotated[
        Path | None, typer.Option(help="Without servers: the checkpoint that prefills.", show_default=False)
    ] = None,
    decode: Annotated[
        Path | None, typer.Option(help="Without servers: the checkpoint that decodes.", show_default=False)
    ] = None,
    first_token: Annotated[
        str,
        typer.Option(help="Without servers: prefill, decode, or auto (as the tuned checkpoint's sun.json records)."),
    ] = "auto",
    threads: Annotated[int, typer.Option(help="Without servers: CPU threads; 0: torch's choice.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure how many greedy answers are right, with 95 % intervals.

    With --served, lm-eval, EvalPlus and BFCL send their questions to a running router.

    With --prefill and --decode, a file of questions is answered without servers.
    """
    if served is None and run_dir is None:
        if prefill is None or decode is None or len(asked) != 1:
            raise typer.BadParameter("give --served, or one file with --prefill and --decode")
        _refuse(context, _SERVED_ONLY, "is only for --served")
        _require_place(out)
        _offline(Path(asked[0]), prefill, decode, first_token, limit, threads, out, as_json)
        return
    _refuse(context, _OFFLINE_ONLY, "is for evaluation without servers; leave it out with --served")
    if prompt not in _PROMPTS:
        raise typer.BadParameter(f"must be one of {', '.join(_PROMPTS)}", param_hint="--prompt")
    from sun_sglang.evaluation.harnesses.lm_eval import EvaluationSettings, Prompt
    from sun_sglang.evaluation.table import render

    settings = EvaluationSettings(
        prompt=cast("Prompt", prompt),
        few_shot=few_shot,
        limit=limit or None,
        concurrency=concurrency,
        max_tokens=max_tokens,
        timeout=timeout,
        unsafe_code=run_unsafe_code,
    )
    for path in (out, answers):
        _require_place(path)
    report, samples = _served(asked, _endpoint(served, run_dir), settings, include_path, tokenizer, harness_dir)
    # first what cannot fail: an evaluation may have taken hours
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        from rich.console import Console

        Console(highlight=False).print(render(report.results))
    if out is not None:
        _write(out, report.model_dump_json(indent=2))
    if answers is not None:
        _write(answers, "\n".join(json.dumps(sample, default=str) for sample in samples))


def _refuse(context: typer.Context, names: tuple[str, ...], why: str) -> None:
    """Refuse an option that the chosen mode does not use."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP"):
            raise typer.BadParameter(why, param_hint=f"--{name.replace('_', '-')}")


def _endpoint(served: str | None, run_dir: Path | None) -> Endpoint:
    from sun_sglang.evaluation.endpoint import endpoint_at, endpoint_of

    if served is not None and "://" in served:
        return endpoint_at(served)
    from sun_sglang.launch.discovery import running_deployment

    _, state = running_deployment(Path(served) if served is not None else None, run_dir)
    return endpoint_of(state)


def _served(
    asked: list[str],
    endpoint: Endpoint,
    settings: Any,
    include_path: Path | None,
    tokenizer: Path | None,
    harness_dir: Path,
) -> tuple[Any, list[dict[str, Any]]]:
    """Return the report, and each question of lm-eval with its answer."""
    from sun_sglang.evaluation.benchmark import parse_benchmarks
    from sun_sglang.evaluation.endpoint import require_served
    from sun_sglang.evaluation.session import Session

    benchmarks = parse_benchmarks(asked)
    asyncio.run(require_served(endpoint, dict.fromkeys(b.task for b in benchmarks)))
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    session = Session(endpoint, settings, tokenizer, harness_dir, lambda text: console.print(text, markup=False))
    session.prepare(benchmarks, include_path)
    for benchmark in benchmarks:
        session.run(benchmark)
    return session.report("sun " + shlex.join(sys.argv[1:])), session.samples


def _require_place(path: Path | None) -> None:
    """Raise before the evaluation if a report cannot be written to a path."""
    if path is None:
        return
    if path.is_dir():
        raise UserError(f"{path}: is a directory; give the path of a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"{path}: cannot be written ({e.strerror or e})") from e
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UserError(f"{path}: cannot be written (no permission)")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as e:
        raise UserError(f"{path}: cannot be written ({e.strerror or e})") from e


def _offline(
    file: Path,
    prefill: Path,
    decode: Path,
    first_token: str,
    limit: int,
    threads: int,
    out: Path | None,
    as_json: bool,
) -> None:
    import torch

    from sun_sglang.evaluation.exact_match import evaluate
    from sun_sglang.evaluation.pair import load_tokenizer, recorded_first_token, require_pair
    from sun_sglang.evaluation.questions import read_questions
    from sun_sglang.train.checkpoint import load_model

    if first_token not in ("auto", "prefill", "decode"):
        raise typer.BadParameter("must be auto, prefill or decode", param_hint="--first-token")
    if threads:
        torch.set_num_threads(threads)
    for warning in require_pair(prefill, decode):
        typer.echo(f"warning: {warning}", err=True)
    first = recorded_first_token(prefill, decode) if first_token == "auto" else cast("Side", first_token)
    tokenizer = load_tokenizer(decode)
    questions, ends, report = read_questions(file, tokenizer, prefill, decode, limit or None)
    for line in report.lines(len(questions)):
        typer.echo(line, err=True)
    models = {path.resolve(): load_model(path) for path in (prefill, decode)}
    pair = models[prefill.resolve()], models[decode.resolve()]
    result = evaluate(*pair, questions, tokenizer.eos_token_id, first, further_ends=ends)
    found = {"file": str(file), "prefill": str(prefill), "decode": str(decode), "first_token": first, **asdict(result)}
    text = json.dumps(found, indent=2)
    if as_json:
        typer.echo(text)
    else:
        _show(prefill, decode, first, result)
    if out is not None:
        _write(out, text)


def _show(prefill: Path, decode: Path, first: Side, result: ExactMatch) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("prefill", "decode", "first token", "right", "exact match %", "95 % interval")
    interval = f"{result.low} to {result.high}"
    right = f"{result.correct} of {result.total}"
    table.add_row(prefill.name, decode.name, first, right, f"{result.percent}", interval)
    Console(highlight=False).print(table)
