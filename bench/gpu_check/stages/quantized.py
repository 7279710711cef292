"""A 4-bit decoder under a full-precision prefill worker, and the scales of 8-bit KV."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import Any

from sun_sglang.bench.gpu_check.context import Context
from sun_sglang.bench.gpu_check.deployment import write_topology
from sun_sglang.bench.gpu_check.errors import Skipped, require
from sun_sglang.bench.gpu_check.models.quantize import write_four_bit, write_scaled
from sun_sglang.bench.gpu_check.models.reference import Reference
from sun_sglang.bench.gpu_check.stage import Stage
from sun_sglang.bench.gpu_check.stages.exactness import check_answers
from sun_sglang.bench.processes import run_sun


def four_bit(context: Context) -> dict[str, Any]:
    """Check W4A16 weights that decode a bfloat16 module's KV: tokens as with the rounded weights in bfloat16."""
    if context.device == "cpu":
        raise Skipped("torch's 4-bit kernel for CPUs rounds to bfloat16; tests/engine/test_w4a16.py compares it there")
    models = context.models("llama")
    packed, rounded = context.work / "models" / "llama-packed", context.work / "models" / "llama-rounded"
    write_four_bit(models["base"], packed, rounded)
    pools = {"packed": context.pool("decode", packed), "a": context.pool("prefill", models["a"])}
    reference = Reference(models["a"], rounded, context.device, context.dtype)
    with closing(context.launch("four-bit", pools, {"four-bit": {"prefill": "a", "decode": "packed"}})) as deployment:
        return asyncio.run(check_answers(deployment, {"four-bit": reference}, batches=(1, 8)))


def scales(context: Context) -> dict[str, Any]:
    """Check that `sun check` refuses modules whose 8-bit KV has unequal scales, and accepts equal scales."""
    models, folder = context.models("llama"), context.work / "models"
    written = {"base": ("base", 1.5), "same": ("a", 1.5), "other": ("a", 2.0)}
    for name, (source, scale) in written.items():
        write_scaled(models[source], folder / f"scaled-{name}", scale)
    outcomes = {}
    for name in ("same", "other"):
        pools = {
            "base": context.pool("decode", folder / "scaled-base"),
            "a": context.pool("prefill", folder / f"scaled-{name}"),
        }
        topology = context.topology(pools, {"a": {"prefill": "a", "decode": "base"}})
        done = run_sun("check", str(write_topology(topology, context.work / f"scales-{name}")))
        outcomes[name] = (done.returncode, " ".join((done.stdout + done.stderr).split()))
    code, text = outcomes["same"]
    require(code == 0, f"`sun check` refuses modules with equal scales: {text}")
    code, text = outcomes["other"]
    require(code == 1 and "scales" in text, f"`sun check` ends with {code} on unequal scales: {text}")
    return {"error": text}


STAGES = (
    Stage("w4a16", "4-bit decoder under a bfloat16 prefill worker", four_bit),
    Stage("kv-scales", "8-bit KV: unequal scales are refused before a start", scales),
)
