"""Quantize a model from checks to checkpoint: one process with llmcompressor does the work."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sun_sglang.checkpoint.tensor_file import safetensors_of
from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.contracts.module_file import MODULE_FILE
from sun_sglang.errors import QuantizeError
from sun_sglang.quantize.calibration import Samples, Source, draw_samples
from sun_sglang.quantize.environment import Environment, find_environment
from sun_sglang.quantize.finish import complete, publish
from sun_sglang.quantize.grid import Plan
from sun_sglang.quantize.job import BITS, Algorithm, Job, Progress, Quality
from sun_sglang.quantize.origin import Origin
from sun_sglang.quantize.preflight import find_source, needed_memory, require_memory, require_place
from sun_sglang.quantize.process import run_job
from sun_sglang.quantize.stop_signals import stop_signals
from sun_sglang.quantize.workplace import workplace


@dataclass(frozen=True)
class Settings:
    """What the user asked for.

    Attributes:
        model: a directory, or the id of a model in the Hugging Face cache.
        output: the directory to make.
        algorithm: the algorithm.
        group_size: inputs that share one scale.
        calibration: the rows; None for `rtn` without a measurement.
        samples: samples to calibrate on.
        held_out: samples to measure with; 0 for no measurement.
        max_tokens: the tokens of a sample that are used.
        seed: seed of the draw.
        threads: CPU threads; 0 for torch's choice.
        python: the interpreter that has llmcompressor; None to look for it.
    """

    model: str
    output: Path
    algorithm: Algorithm = "awq"
    group_size: int = 128
    calibration: Source | None = None
    samples: int = 256
    held_out: int = 16
    max_tokens: int = 512
    seed: int = 0
    threads: int = 0
    python: Path | None = None


@dataclass(frozen=True)
class Prepared:
    """A quantization that was checked and can begin.

    Attributes:
        settings: what the user asked for.
        source: directory of the model.
        plan: what becomes of its tensors.
        samples: the samples.
        environment: the environment that quantizes.
        memory: estimate of the memory that it needs, in bytes.
        notes: what the user may not expect.
    """

    settings: Settings
    source: Path
    plan: Plan
    samples: Samples
    environment: Environment
    memory: int
    notes: tuple[str, ...]

    @property
    def tokens(self) -> int:
        """Tokens of the calibration samples."""
        return sum(map(len, self.samples.calibration))


@dataclass(frozen=True)
class Result:
    """A quantization that is done.

    Attributes:
        size_before: bytes of the source's weight files.
        size_after: bytes of the checkpoint's weight files.
        seconds: duration.
        quality: how far the result is from its source; None where it was not measured.
    """

    size_before: int
    size_after: int
    seconds: float
    quality: Quality | None


def prepare(settings: Settings) -> Prepared:
    """Check everything that can be checked before the work.

    Raises:
        QuantizeError: something does not fit; nothing was begun.
        CheckpointError: the model is not whole.
    """
    # the cheap checks first
    source, plan = find_source(settings.model, settings.group_size)
    require_place(settings.output, source, plan.size_after)
    if settings.calibration is None and settings.algorithm != "rtn":
        raise QuantizeError(f"--calibration: {settings.algorithm} needs samples; name a file or a Hub dataset")
    environment = find_environment(settings.python)
    samples = Samples((), (), 0)
    if settings.calibration is not None:
        samples = draw_samples(
            settings.calibration,
            source,
            calibration=0 if settings.algorithm == "rtn" else settings.samples,
            held_out=settings.held_out,
            max_tokens=settings.max_tokens,
            seed=settings.seed,
        )
    memory = needed_memory(source, plan, settings.algorithm, samples.calibration, samples.held_out)
    require_memory(memory)
    return Prepared(settings, source, plan, samples, environment, memory, _notes(settings, source, plan, samples))


def quantize(prepared: Prepared, report: Callable[[Progress], None]) -> Result:
    """Quantize, and give the checkpoint its name once it is whole. Otherwise leave nothing.

    Args:
        prepared: the checked quantization.
        report: called with each progress.

    Raises:
        QuantizeFailed: the process failed or was stopped, or its checkpoint is not what was planned.
        QuantizeError: another process writes the same output.
    """
    settings, samples = prepared.settings, prepared.samples
    start = time.monotonic()
    with stop_signals() as ignore_signals, workplace(settings.output) as place:
        made = place / "checkpoint"
        job = Job(
            model=str(prepared.source.resolve()),
            output=str(made.resolve()),
            algorithm=settings.algorithm,
            group_size=settings.group_size,
            calibration=samples.calibration,
            held_out=samples.held_out,
            threads=settings.threads,
            seed=settings.seed,
        )
        quality = run_job(job, prepared.environment, place, report)
        complete(made, prepared.source, prepared.plan, _origin(prepared))
        ignore_signals()
        publish(made, settings.output)
    return Result(_size(prepared.source), _size(settings.output), time.monotonic() - start, quality)


def _origin(prepared: Prepared) -> Origin:
    settings = prepared.settings
    used = settings.calibration is not None and settings.algorithm != "rtn"
    return Origin(
        source=weights_revision(prepared.source),
        algorithm=settings.algorithm,
        bits=BITS,
        group_size=settings.group_size,
        calibration=settings.calibration.name if used and settings.calibration is not None else "",
        samples=len(prepared.samples.calibration),
        tokens=prepared.tokens,
        seed=settings.seed,
        versions=prepared.environment.versions,
    )


def _notes(settings: Settings, source: Path, plan: Plan, samples: Samples) -> tuple[str, ...]:
    notes = list(plan.notes)
    wanted = settings.samples if settings.algorithm != "rtn" else 0
    if len(samples.calibration) < wanted:
        notes.append(
            f"the calibration data has {samples.rows:,} rows: {len(samples.calibration):,} calibrate, and "
            f"{len(samples.held_out):,} are held out"
        )
    if (source / MODULE_FILE).exists():
        notes.append(
            f"{MODULE_FILE} of the model is not copied: it records the decoder that the unquantized weights were tuned "
            "for"
        )
    return tuple(notes)


def _size(model: Path) -> int:
    return sum(path.stat().st_size for path in safetensors_of(model))
