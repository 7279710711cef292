"""The plan of a trace: its records, or a slice of them, at its times or faster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from random import Random
from typing import Any

from sun_sglang.bench.load.errors import BenchError, FileError, FlagError
from sun_sglang.bench.load.traces.trace import MergedRecord, Trace, merge
from sun_sglang.bench.load.workload.planned import Plan, PlannedRow
from sun_sglang.bench.load.workload.popularity import Popularity
from sun_sglang.bench.load.workload.prompts.files import InputFile
from sun_sglang.bench.load.workload.prompts.random_tokens import Block, RandomTokens, SharedBlocks
from sun_sglang.bench.load.workload.seeds import Draws, stream
from sun_sglang.bench.load.workload.settings import WorkloadSettings


def replay(
    settings: WorkloadSettings,
    files: Sequence[InputFile],
    popularity: Popularity,
    ids: RandomTokens,
    origin: Mapping[str, Any],
) -> Plan:
    """Return the plan of one trace, or of several that are replayed together.

    The task of a record is the task of its file, else the one that the trace names, else drawn by popularity. A draw
    belongs to the number of the record in the trace: a slice has the tasks that the whole trace has there.

    Args:
        settings: the settings.
        files: the traces.
        popularity: the popularity of the tasks.
        ids: makes the tokens of prompts.
        origin: what a result states of the files.

    Raises:
        BenchError: a record names an unknown task, or none is in the slice.
    """
    traces = [file.content for file in files if isinstance(file.content, Trace)]
    kept = list(islice(_slice(settings, merge(traces)), settings.request_count))
    if not kept:
        last = max(trace.records[-1].at for trace in traces) * 1000
        raise FlagError("fixed_schedule_start_offset", f"no record is in the slice; the last is at {last:.0f} ms")
    draws = Draws(Random.random, stream(settings.random_seed, "task"))
    positions = {task: position for position, task in enumerate(settings.tasks)}

    def rows() -> Iterator[PlannedRow]:
        for due, (number, trace, record) in kept:
            named = files[trace].task or record.task
            if named is None:
                task = popularity.task(draws[number], due)
            elif named in positions:
                task = positions[named]
            else:
                raise _unknown_task(traces[trace], named, settings.tasks)
            yield PlannedRow(due, task, record.input_tokens, record.output_tokens)

    blocks = [_blocks(merged) for _, merged in kept]
    source = SharedBlocks(ids, blocks, settings.isl_block_size) if any(blocks) else ids
    return Plan(settings.tasks, rows(), source, origin)


def _slice(settings: WorkloadSettings, records: Iterator[MergedRecord]) -> Iterator[tuple[float, MergedRecord]]:
    """Yield the records of the slice with their times in the run, in seconds after the start of the slice."""
    start = (settings.fixed_schedule_start_offset or 0.0) / 1000
    end = settings.fixed_schedule_end_offset
    for merged in records:
        at = merged.record.at
        due = (at - start) / settings.synthesis_speedup_ratio
        if due >= settings.duration or (end is not None and at > end / 1000):
            return
        if due >= 0:
            yield due, merged


def _blocks(merged: MergedRecord) -> tuple[Block, ...]:
    # the ids of two traces are not of the same blocks
    return tuple((merged.trace, block) for block in merged.record.blocks)


def _unknown_task(trace: Trace, task: str, tasks: Sequence[str]) -> BenchError:
    line = next(record.line for record in trace.records if record.task == task)
    return FileError(trace.file, line, f"unknown task `{task}`; tasks: {', '.join(tasks)}")
