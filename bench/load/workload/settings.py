"""The settings of a load. A field has the name of its flag: `request_rate` is `--request-rate`.

Names are those of AIPerf where it has them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from sun_sglang.bench.load.errors import BenchError, FlagError
from sun_sglang.bench.load.traces.mooncake import BLOCK_SIZE
from sun_sglang.bench.load.workload.lengths import LONGEST, parse_length
from sun_sglang.bench.load.workload.prompts.random_tokens import token_range
from sun_sglang.strict import Strict, first_invalid

NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class WorkloadSettings(Strict):
    """What is sent. Times are in seconds.

    Attributes:
        tasks: names of the tasks; the order is the ranking, the first is the hottest.
        workload: independent requests, or sessions of agents.
        random_seed: the seed of everything that is drawn.
        prompt_seed: the seed of the tokens of prompts alone; None: `random_seed`. Another one repeats a run on the same
            servers, with the same times, tasks and lengths, without hits in caches that the first run filled.
        zipf: exponent of rank Zipf over the tasks; 0 is uniform.
        hot_shift: seconds after which the ranking moves on by one task; None leaves it as it is.
        request_rate: requests (or sessions) per second; open loop. None: closed loop, or the times of a trace.
        concurrency: requests (or sessions) in flight: at most so many with a rate, always so many without one.
        arrival_pattern: the distribution of the gaps between arrivals.
        arrival_smoothness: shape of the gamma distribution; 1 is Poisson, less is burstier.
        request_rate_ramp_duration: the rate grows from 0 to its value in so many seconds.
        concurrency_ramp_duration: the concurrency grows from 1 to its value in so many seconds.
        isl: input length in tokens: `512`, `uniform:LOW:HIGH` or `lognormal:MEDIAN:SIGMA[:MAX]`.
        osl: output length in tokens, in the same form.
        token_ids: range of the ids of random prompts, `LOW:HIGH`, both included. The default is in every vocabulary of
            256 or more, and in none of the common ones a special token.
        input_file: datasets, or one trace: `FILE` for all tasks, or `TASK=FILE`.
        custom_dataset_type: format of the files; None: from their content.
        fixed_schedule_start_offset: of a trace, the first millisecond that is replayed.
        fixed_schedule_end_offset: of a trace, the last millisecond that is replayed.
        synthesis_speedup_ratio: of a trace, 2 replays it twice as fast.
        warmup_duration: length of the warm-up.
        benchmark_duration: length of the window.
        request_count: at most so many requests (or sessions).
        isl_block_size: of a trace of Mooncake, tokens in a block of `hash_ids`.
        agent_count: of agents, agents of a session; None here and below: as the pattern has (`agents.py`).
        agent_turns: of agents, turns of a session.
        agent_initial_tokens: of agents, length of the first prompt of a session.
        agent_shared_tokens: of agents, how many of these are the same in all sessions.
        agent_appended_tokens: of agents, tokens that follow each answer in the context.
        agent_output_tokens: of agents, length of an answer.
    """

    tasks: Annotated[tuple[str, ...], Field(min_length=1, max_length=65_535)]
    workload: Literal["requests", "react", "reflexion"] = "requests"
    random_seed: Annotated[int, Field(ge=0)] = 0
    prompt_seed: Annotated[int, Field(ge=0)] | None = None
    zipf: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    hot_shift: Annotated[float, Field(ge=0.001, allow_inf_nan=False)] | None = None
    request_rate: Positive | None = None
    concurrency: Annotated[int, Field(gt=0)] | None = None
    arrival_pattern: Literal["poisson", "constant", "gamma"] = "poisson"
    arrival_smoothness: Annotated[float, Field(ge=0.01, le=10_000)] = 1.0
    request_rate_ramp_duration: NotNegative = 0.0
    concurrency_ramp_duration: NotNegative = 0.0
    isl: str = "512"
    osl: str = "128"
    token_ids: str = "64:250"
    input_file: tuple[str, ...] = ()
    custom_dataset_type: Literal["single_turn", "sharegpt", "azure_trace", "mooncake_trace"] | None = None
    fixed_schedule_start_offset: NotNegative | None = None
    fixed_schedule_end_offset: NotNegative | None = None
    synthesis_speedup_ratio: Positive = 1.0
    warmup_duration: NotNegative = 30.0
    benchmark_duration: Positive = 60.0
    request_count: Annotated[int, Field(gt=0)] | None = None
    isl_block_size: Annotated[int, Field(gt=0, le=LONGEST)] = BLOCK_SIZE
    agent_count: Annotated[int, Field(gt=0, le=1_000)] | None = None
    agent_turns: Annotated[int, Field(gt=0, le=1_000)] | None = None
    agent_initial_tokens: Annotated[int, Field(gt=0, le=LONGEST)] | None = None
    agent_shared_tokens: Annotated[int, Field(ge=0, le=LONGEST)] | None = None
    agent_appended_tokens: Annotated[int, Field(ge=0, le=LONGEST)] | None = None
    agent_output_tokens: Annotated[int, Field(gt=0, le=LONGEST)] | None = None

    @field_validator("tasks")
    @classmethod
    def _tasks_differ(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        for number, task in enumerate(tasks):
            if not task:
                raise ValueError("a task has no name")
            if task in tasks[:number]:
                raise ValueError(f"task `{task}` is named twice")
        return tasks

    @field_validator("isl", "osl")
    @classmethod
    def _is_length(cls, text: str) -> str:
        parse_length(text)
        return text

    @field_validator("token_ids")
    @classmethod
    def _is_range(cls, text: str) -> str:
        token_range(text)
        return text

    @property
    def duration(self) -> float:
        """Seconds of warm-up and window together: no request is due later."""
        return self.warmup_duration + self.benchmark_duration


def workload_settings(**values: Any) -> WorkloadSettings:
    """Return the settings of a load.

    Raises:
        BenchError: a value is wrong; the message names the flag.
    """
    try:
        return WorkloadSettings(**values)
    except ValidationError as e:
        # the messages of this model's own checks have the value
        own = e.errors(include_url=False)[0]["type"] == "value_error"
        invalid = first_invalid(e, WorkloadSettings, show_value=not own)
        if not invalid.path:
            raise BenchError(invalid.message) from e
        raise FlagError(invalid.path[0], invalid.message) from e
