"""Workers of several ranks, each on a GPU of its own: tensor and data parallel, equal and unequal on the two sides."""

from __future__ import annotations

import asyncio
import random
from contextlib import closing
from functools import partial
from typing import Any

from sun_sglang.bench.gpu_check.context import Context
from sun_sglang.bench.gpu_check.deployment import Deployment
from sun_sglang.bench.gpu_check.errors import require
from sun_sglang.bench.gpu_check.stage import Stage
from sun_sglang.bench.gpu_check.stages.exactness import check_answers, random_prompt


def serve(prefill: dict[str, int], decode: dict[str, int], context: Context) -> dict[str, Any]:
    """Serve one Llama task whose workers have several ranks, and compare its answers.

    Args:
        prefill: parallel sizes of the prefill worker.
        decode: parallel sizes of the decode worker.
        context: the run.
    """
    models = context.models("llama")
    two = context.gpus[:2]
    pools = {
        "base": context.pool("decode", models["base"], two, **decode),
        "a": context.pool("prefill", models["a"], two, **prefill),
    }
    name = "-".join(f"{k}{v}" for side in (prefill, decode) for k, v in side.items())
    with closing(context.launch(name, pools, {"a": {"prefill": "a", "decode": "base"}})) as deployment:
        measured = asyncio.run(check_answers(deployment, {"a": context.reference("llama", "a")}, batches=(1, 8)))
        if (copies := decode.get("dp_size", 1)) > 1:
            asyncio.run(require_ranks(deployment, copies))
    return measured


async def require_ranks(deployment: Deployment, count: int) -> None:
    """Require that each data-parallel rank of the decode worker answers.

    Raises:
        CheckError: a rank answers no request.
    """
    rng = random.Random(3)
    async with deployment.client() as client:
        replies = await asyncio.gather(*(client.generate("a", random_prompt(rng, 40), 8) for _ in range(8 * count)))
    ranks = sorted({reply["meta_info"]["dp_rank"] for reply in replies})
    require(ranks == list(range(count)), f"of {count} data-parallel ranks, these answered: {ranks}")


STAGES = (
    Stage("tp", "tensor parallel: 2 ranks on both sides", partial(serve, {"tp_size": 2}, {"tp_size": 2}), gpus=2),
    Stage("tp-unequal", "tensor parallel: 1 rank to 2", partial(serve, {"tp_size": 1}, {"tp_size": 2}), gpus=2),
    Stage("dp", "data parallel: 2 decode ranks", partial(serve, {"dp_size": 1}, {"dp_size": 2}), gpus=2),
)
