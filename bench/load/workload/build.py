"""Settings -> what is sent: a plan (open loop, trace), requests without end (closed loop), or sessions of agents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice, takewhile
from random import Random
from typing import Any

from sun_sglang.bench.load.errors import FlagError
from sun_sglang.bench.load.traces.trace import Trace
from sun_sglang.bench.load.workload.agents.plan import SessionPlan
from sun_sglang.bench.load.workload.agents.workflow import REACT, REFLEXION, Workflow
from sun_sglang.bench.load.workload.arrivals import arrivals, mean_arrivals
from sun_sglang.bench.load.workload.consistency import mode_of
from sun_sglang.bench.load.workload.endless import EndlessPlan
from sun_sglang.bench.load.workload.lengths import parse_length
from sun_sglang.bench.load.workload.planned import Plan, PlannedRow, Prompt, PromptSource
from sun_sglang.bench.load.workload.popularity import Popularity
from sun_sglang.bench.load.workload.prompts.datasets import Dataset
from sun_sglang.bench.load.workload.prompts.files import InputFile, read_files
from sun_sglang.bench.load.workload.prompts.random_tokens import RandomTokens, token_range
from sun_sglang.bench.load.workload.prompts.sampling import DatasetPrompts
from sun_sglang.bench.load.workload.replay import replay
from sun_sglang.bench.load.workload.seeds import Draws, stream
from sun_sglang.bench.load.workload.settings import WorkloadSettings

MOST_REQUESTS = 5_000_000
"""The most requests that an open loop may plan."""


def build(settings: WorkloadSettings) -> Plan | EndlessPlan | SessionPlan:
    """Return what is sent: a plan, the requests of a closed loop, or sessions of agents.

    Raises:
        BenchError: the settings do not go together, or a file is wrong; the message names the flag, or file and line.
    """
    files = read_files(settings.input_file, settings.tasks, settings.custom_dataset_type, settings.isl_block_size)
    traces = [file for file in files if isinstance(file.content, Trace)]
    if traces and len(traces) < len(files):
        raise FlagError("input_file", "traces and datasets do not go together; give one kind")
    mode = mode_of(settings, trace=bool(traces), texts=bool(files) and not traces)
    popularity = Popularity(len(settings.tasks), settings.zipf, settings.hot_shift)
    ids = RandomTokens(_prompt_seed(settings), *token_range(settings.token_ids))
    origin = {"files": [_origin(file) for file in files]}
    if mode == "trace":
        return replay(settings, traces, popularity, ids, origin)
    if mode == "agents":
        due = _due(settings) if settings.request_rate is not None else None
        return SessionPlan(
            settings.tasks,
            popularity,
            _workflow(settings),
            ids,
            settings.random_seed,
            due=due,
            count=settings.request_count,
            origin=origin,
        )
    source = _dataset_prompts(settings, files) if files else ids
    draws = _draws(settings)
    if mode == "closed":
        return EndlessPlan(settings.tasks, popularity, draws, source, count=settings.request_count, origin=origin)
    return Plan(settings.tasks, _rows(settings, popularity, draws, texts=bool(files)), source, origin)


def _draws(settings: WorkloadSettings) -> tuple[Draws, Draws, Draws]:
    """Return the draws of tasks, input lengths and output lengths, each by number of the request."""
    seed = settings.random_seed
    return (
        Draws(Random.random, stream(seed, "task")),
        Draws(parse_length(settings.isl).sample, stream(seed, "input length")),
        Draws(parse_length(settings.osl).sample, stream(seed, "output length")),
    )


def _rows(
    settings: WorkloadSettings, popularity: Popularity, draws: tuple[Draws, Draws, Draws], *, texts: bool
) -> Iterator[PlannedRow]:
    task, input_tokens, output_tokens = draws
    for index, due in enumerate(_due(settings)):
        yield PlannedRow(
            due,
            popularity.task(task[index], due),
            0 if texts else int(input_tokens[index]),
            int(output_tokens[index]),
        )


def _due(settings: WorkloadSettings) -> Sequence[float]:
    """Return the times of arrival of an open loop."""
    rate, ramp, duration = settings.request_rate, settings.request_rate_ramp_duration, settings.duration
    assert rate is not None
    wished = settings.request_count or mean_arrivals(rate, ramp, duration)
    if min(wished, mean_arrivals(rate, ramp, duration)) > MOST_REQUESTS:
        raise FlagError(
            "request_rate", f"{rate:g} per second make more than {MOST_REQUESTS} requests in {duration:g} s"
        )
    times = arrivals(
        rate,
        settings.arrival_pattern,
        stream(settings.random_seed, "arrivals"),
        smoothness=settings.arrival_smoothness,
        ramp=ramp,
    )
    due = list(islice(takewhile(lambda time: time < duration, times), settings.request_count))
    if not due:
        raise FlagError("request_rate", f"at {rate:g} per second no request is due within {duration:g} s; raise it")
    return due


def _workflow(settings: WorkloadSettings) -> Workflow:
    pattern = {"react": REACT, "reflexion": REFLEXION}[settings.workload]
    wished = {
        "agents": settings.agent_count,
        "turns": settings.agent_turns,
        "initial_tokens": settings.agent_initial_tokens,
        "shared_tokens": settings.agent_shared_tokens,
        "appended_tokens": settings.agent_appended_tokens,
        "output_tokens": settings.agent_output_tokens,
    }
    workflow = replace(pattern, **{name: value for name, value in wished.items() if value is not None})
    if workflow.shared_tokens > workflow.initial_tokens:
        raise FlagError(
            "agent_shared_tokens",
            f"{workflow.shared_tokens} is more than the {workflow.initial_tokens} of --agent-initial-tokens",
        )
    return workflow


def _dataset_prompts(settings: WorkloadSettings, files: Sequence[InputFile]) -> PromptSource:
    by_task = {file.task: file.content for file in files if isinstance(file.content, Dataset)}
    prompts: dict[str, Sequence[Prompt]] = {}
    for task in settings.tasks:
        content = by_task.get(task, by_task.get(None))
        if content is None:
            raise FlagError("input_file", f"task `{task}` has no file; give `{task}=FILE`, or one FILE for all tasks")
        prompts[task] = content.prompts
    digest = ", ".join(f"{file.task or ''}={file.content.sha256}" for file in files)
    return DatasetPrompts(_prompt_seed(settings), prompts, digest)


def _prompt_seed(settings: WorkloadSettings) -> int:
    return settings.random_seed if settings.prompt_seed is None else settings.prompt_seed


def _origin(file: InputFile) -> dict[str, Any]:
    return {"task": file.task, **file.content.origin}
