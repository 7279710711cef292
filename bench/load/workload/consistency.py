"""Settings that do not go together: each is reported, so that no flag is silently without effect."""

from __future__ import annotations

from typing import Literal

from sun_sglang.bench.load.errors import BenchError, FlagError
from sun_sglang.bench.load.workload.settings import WorkloadSettings

Mode = Literal["open", "closed", "trace", "agents"]

# the modes in which a flag has an effect, and the reason where it has none
_MODES: dict[str, tuple[frozenset[Mode], str]] = {
    "input_file": (frozenset({"open", "closed", "trace"}), "agents send random token ids; leave it out"),
    "isl": (frozenset({"open", "closed"}), "a trace and --workload have lengths of their own; leave it out"),
    "osl": (frozenset({"open", "closed"}), "a trace and --workload have lengths of their own; leave it out"),
    **dict.fromkeys(
        (
            "fixed_schedule_start_offset",
            "fixed_schedule_end_offset",
            "synthesis_speedup_ratio",
            "isl_block_size",
        ),
        (frozenset[Mode]({"trace"}), "needs a trace; name one with --input-file"),
    ),
    **dict.fromkeys(
        (
            "agent_count",
            "agent_turns",
            "agent_initial_tokens",
            "agent_shared_tokens",
            "agent_appended_tokens",
            "agent_output_tokens",
        ),
        (frozenset[Mode]({"agents"}), "needs --workload react or --workload reflexion"),
    ),
}


def mode_of(settings: WorkloadSettings, *, trace: bool, texts: bool) -> Mode:
    """Return how requests are started.

    Args:
        settings: the settings.
        trace: whether the input files are traces.
        texts: whether they are datasets.

    Raises:
        BenchError: a setting is missing, or has no effect beside the others; the message names its flag.
    """
    mode = _mode(settings, trace)
    for field, (modes, problem) in _MODES.items():
        if mode not in modes and _is_set(settings, field):
            raise FlagError(field, problem)
    if mode == "trace" and settings.request_rate is not None:
        raise FlagError("request_rate", "a trace has times of its own; scale them with --synthesis-speedup-ratio")
    if texts and _is_set(settings, "isl"):
        raise FlagError("isl", "the prompts of --input-file are sent whole, as long as they are; leave it out")
    _check_arrivals(settings)
    start, end = settings.fixed_schedule_start_offset, settings.fixed_schedule_end_offset
    if start is not None and end is not None and end < start:
        raise FlagError("fixed_schedule_end_offset", f"{end:g} ms is before the start, {start:g} ms")
    return mode


def _mode(settings: WorkloadSettings, trace: bool) -> Mode:
    if settings.workload == "requests" and trace:
        return "trace"
    if settings.request_rate is None and settings.concurrency is None:
        raise BenchError("no load: give --request-rate (open loop) or --concurrency (closed loop), or a trace")
    if settings.workload != "requests":
        return "agents"
    return "open" if settings.request_rate is not None else "closed"


def _check_arrivals(settings: WorkloadSettings) -> None:
    if settings.custom_dataset_type is not None and not settings.input_file:
        raise FlagError("custom_dataset_type", "needs --input-file")
    if settings.concurrency is None and settings.concurrency_ramp_duration:
        raise FlagError("concurrency_ramp_duration", "needs --concurrency")
    if _is_set(settings, "arrival_smoothness") and settings.arrival_pattern != "gamma":
        raise FlagError("arrival_smoothness", "needs --arrival-pattern gamma")
    for field in ("arrival_pattern", "request_rate_ramp_duration"):
        if settings.request_rate is None and _is_set(settings, field):
            raise FlagError(field, "needs --request-rate")


def _is_set(settings: WorkloadSettings, field: str) -> bool:
    """Return whether a setting differs from its default; a command passes the defaults of all flags."""
    return bool(getattr(settings, field) != WorkloadSettings.model_fields[field].default)
