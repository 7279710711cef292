"""Any settings, also absurd ones: a load, or one error for the user."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.bench.load.errors import BenchError
from sun_sglang.bench.load.workload.agents.plan import SessionPlan
from sun_sglang.bench.load.workload.build import build
from sun_sglang.bench.load.workload.endless import EndlessPlan
from sun_sglang.bench.load.workload.planned import PlannedRequest
from sun_sglang.bench.load.workload.settings import workload_settings

DATA = Path(__file__).parents[1] / "traces" / "data"

_NUMBER = st.sampled_from([0, 1, 3, 0.5, 5e-324, 1e-9, 1e9, 1e300, -1, float("inf"), float("nan"), "x", None, True])
_SENSIBLE = st.sampled_from([1, 2, 3.5, 7])
_LENGTH = st.sampled_from(["5", "uniform:1:9", "lognormal:5:9", "lognormal:10000000:10", "0", "x:1", ""])
_FIELDS = {
    "tasks": st.sampled_from([("a",), ("a", "b", "c"), tuple(map(str, range(300))), ("a", "a"), ()]),
    "workload": st.sampled_from(["requests", "requests", "react", "reflexion"]),
    "arrival_pattern": st.sampled_from(["poisson", "constant", "gamma"]),
    "isl": _LENGTH,
    "osl": _LENGTH,
    "token_ids": st.sampled_from(["0:0", "5:9", "9:5", "x"]),
    "input_file": st.sampled_from(
        [[], [], [str(DATA / "azure_small.csv")], [f"a={DATA / 'mooncake_small.jsonl'}"], [str(DATA)], ["x=y"]]
    ),
    "custom_dataset_type": st.sampled_from([None, None, "sharegpt", "single_turn", "azure_trace", "mooncake_trace"]),
    **dict.fromkeys(
        (
            "zipf",
            "hot_shift",
            "request_rate",
            "concurrency",
            "arrival_smoothness",
            "request_rate_ramp_duration",
            "concurrency_ramp_duration",
            "fixed_schedule_start_offset",
            "fixed_schedule_end_offset",
            "synthesis_speedup_ratio",
            "isl_block_size",
            "agent_count",
            "agent_turns",
            "agent_initial_tokens",
            "agent_shared_tokens",
            "agent_appended_tokens",
            "agent_output_tokens",
            "random_seed",
            "prompt_seed",
        ),
        _SENSIBLE | _NUMBER,
    ),
}


# a few at once: with all of them, nearly every combination is wrong at its first flag
_SOME = st.lists(st.sampled_from(sorted(_FIELDS)), max_size=5, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: _FIELDS[name] for name in names})
)


@given(_SOME, st.sampled_from(["request_rate", "concurrency"]))
def test_any_settings_give_a_load_or_one_error(settings: dict[str, Any], loop: str) -> None:
    bounded = {
        "tasks": ("a", "b"),
        loop: 2,
        **settings,
        "request_count": 3,
        "warmup_duration": 0,
        "benchmark_duration": 5,
    }
    try:
        built = build(workload_settings(**bounded))
    except BenchError as error:
        message = str(error)
        assert "\n" not in message
        return
    assert len(built.sha256()) == 64
    first: PlannedRequest
    if isinstance(built, EndlessPlan):
        first = built.request(0, elapsed=5.0)
    elif isinstance(built, SessionPlan):
        first = built.session(0).request(built.workflow.calls - 1)
    else:
        first = built[0]
    assert first.task in built.tasks
    assert first.output_tokens >= 1
    assert first.prompt
