"""Check on this machine's GPU what only a GPU can show (`make gpu-check`).

    python -m sun_sglang.bench.gpu_check --model DIR --output gpu-check.json

Exit code 0: a stage passed and none failed; 1: a stage failed, every stage was skipped, or no GPU is visible; 2: wrong
usage.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml
from rich.console import Console
from rich.markup import escape

from sun_sglang.bench.gpu_check.context import Context
from sun_sglang.bench.gpu_check.machine import facts, stage_gpus
from sun_sglang.bench.gpu_check.report import check_report, show
from sun_sglang.bench.gpu_check.stage import Stage, StageResult, run_stage
from sun_sglang.bench.gpu_check.stages import STAGES
from sun_sglang.bench.report import write_report
from sun_sglang.cpu import define_torchvision_schemas
from sun_sglang.launch.planning.hardware.machine import detect_machine


def main(arguments: Sequence[str]) -> int:
    """Run the stages; return the exit code."""
    options = _parser().parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    gpus: tuple[int, ...] = ()
    if options.device == "cuda":
        found = detect_machine()
        gpus = stage_gpus(found.gpus)
        if not gpus:
            problem = escape(f"gpu-check: no GPU is visible{f' ({found.gpu_problem})' if found.gpu_problem else ''};")
            console.print(f"[red]{problem}[/] `make gpu-check DEVICE=cpu` runs the stages that need none")
            return 1
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        define_torchvision_schemas()
    stages = [stage for stage in STAGES if not options.stage or stage.name in options.stage]
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        work = options.work or Path(folder)
        context = Context(
            device=options.device,
            gpus=gpus,
            work=work.resolve(),
            engine=dict(options.flag),
            model=options.model and options.model.resolve(),
            progress=lambda line: console.print(f"gpu-check: {escape(line)}"),
        )
        command, machine = _command(options), facts()
        results: list[StageResult] = []
        # before the first stage: a path that cannot be written is an error at once
        write_report(check_report(command, machine, results), options.output)
        with context.closing:
            for stage in stages:
                results.append(_run(stage, context))
                # after each stage: an interrupted check leaves the results so far
                write_report(check_report(command, machine, results), options.output)
            # before the shared deployment is closed, which may fail
            show(Console(highlight=False), results)
            console.print(f"gpu-check: wrote {options.output}")
    return 0 if check_report(command, machine, results).passed else 1


def _command(options: argparse.Namespace) -> str:
    """Return the command for the report, without this machine's paths."""
    words = ["python", "-m", "sun_sglang.bench.gpu_check", "--device", options.device]
    words += [word for stage in options.stage or () for word in ("--stage", stage)]
    words += [word for key, value in options.flag for word in ("--flag", f"{key}={value}")]
    return shlex.join([*words, *(("--model", "DIR") if options.model else ())])


def _run(stage: Stage, context: Context) -> StageResult:
    context.progress(f"{stage.name}: {stage.title}")
    result = run_stage(stage, context)
    found = result.message or json.dumps(result.measured)
    context.progress(f"{stage.name}: {result.outcome} after {result.seconds:.0f} s: {found}")
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sun_sglang.bench.gpu_check", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="where workers run")
    parser.add_argument("--model", type=Path, help="a real checkpoint for the latency stage")
    parser.add_argument(
        "--stage", action="append", choices=[s.name for s in STAGES], help="run only this stage; repeatable"
    )
    parser.add_argument(
        "--flag",
        action="append",
        type=_flag,
        default=[],
        metavar="KEY=VALUE",
        help="an SGLang flag for every worker; repeatable",
    )
    parser.add_argument("--output", type=Path, default=Path("build/gpu-check/report.json"), help="the JSON report")
    parser.add_argument("--work", type=Path, help="keep checkpoints and logs in this folder")
    return parser


def _flag(text: str) -> tuple[str, object]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"`{text}` is not a flag; write attention_backend=triton")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise argparse.ArgumentTypeError(f"`{value}`, the value of `{key}`, is not YAML") from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
