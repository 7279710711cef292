"""Other kinds of KV: a compressed latent, a sliding window, a recurrent state."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from sun_sglang.bench.gpu_check.context import PAGE, Context
from sun_sglang.bench.gpu_check.errors import Skipped
from sun_sglang.bench.gpu_check.stage import Stage
from sun_sglang.bench.gpu_check.stages.cache import check_conversations
from sun_sglang.bench.gpu_check.stages.exactness import check_answers


@dataclass(frozen=True)
class Case:
    """A tiny model of one architecture, served by one prefill and one decode worker.

    Attributes:
        architecture: a key of `checkpoints.ARCHITECTURES`.
        why_no_cpu: why SGLang cannot serve it on a CPU, with the file in `sglang/srt`.
        engine: SGLang flags of both workers.
        cached: whether a later turn of a conversation reuses KV on the decode worker.
        stepwise: as for `Reference`.
    """

    architecture: str
    why_no_cpu: str
    engine: Mapping[str, Any] = field(default_factory=dict)
    cached: bool = True
    stepwise: bool = False


def serve(case: Case, context: Context) -> dict[str, Any]:
    """Serve one task of a tiny model, and compare its answers and conversations."""
    if context.device == "cpu":
        raise Skipped(case.why_no_cpu)
    models = context.models(case.architecture)
    pools = {
        "base": context.pool("decode", models["base"], **case.engine),
        "a": context.pool("prefill", models["a"], **case.engine),
    }
    reference = replace(context.reference(case.architecture, "a"), stepwise=case.stepwise)
    name = "-".join([case.architecture, *map(str, case.engine.values())])
    with closing(context.launch(name, pools, {"a": {"prefill": "a", "decode": "base"}})) as deployment:
        measured = asyncio.run(check_answers(deployment, {"a": reference}, batches=(1, 6)))
        if case.cached:
            measured["conversations"] = asyncio.run(check_conversations(deployment, "a", reference, None))
    return measured


_GPT_OSS = partial(Case, "gpt-oss", "its attention backends are for GPUs or AMX (`arg_groups/model_hook.py`)")
_HYBRID = partial(
    Case,
    "qwen3-next",
    "its layers import `sgl_kernel.mamba`, of which there is no CPU wheel (`layers/attention/linear/kda_backend.py`)",
    stepwise=True,
)
# the state at a prompt's end is kept without the overlap schedule alone
_KEEP_STATES = {"mamba_radix_cache_strategy": "no_buffer", "disable_overlap_schedule": True}
_MLA = Case(
    "deepseek", "attention on a CPU without AMX takes no latent KV (`layers/attention/torch_native_backend.py`)"
)

STAGES = (
    Stage("mla", "latent attention (DeepSeek-V3, tiny)", partial(serve, _MLA)),
    Stage("window", "sliding window (gpt-oss, tiny)", partial(serve, _GPT_OSS())),
    Stage("window-pages", f"sliding window, pages of {PAGE}", partial(serve, _GPT_OSS({"page_size": PAGE}))),
    Stage("hybrid", "recurrent state (Qwen3-Next, tiny), no decode cache", partial(serve, _HYBRID(cached=False))),
    Stage("hybrid-cache", "recurrent state with a decode cache", partial(serve, _HYBRID(_KEEP_STATES))),
)
