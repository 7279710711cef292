"""The benchmark of 4-bit weights: the order of its cells, its models, its requests, and its table."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from sun_sglang.bench.figures.four_bit_table import faster_full, render
from sun_sglang.bench.four_bit.load import Lengths, measure
from sun_sglang.bench.four_bit.model import make_models
from sun_sglang.bench.four_bit.systems import BITS, Cell, cells
from sun_sglang.bench.report import Report, Run, new_report
from sun_sglang.errors import WorkerError
from sun_sglang.packed_weights.checkpoint import is_packed, packed_layers
from sun_sglang.topology_file import load_topology

CONFIG = Path(__file__).parents[4] / "configs" / "four_bit" / "systems.yaml"


def test_systems_take_turns_at_each_number_of_users_and_another_one_begins_each_round() -> None:
    plan = list(cells([1, 4], rounds=3, float32_rounds=1))
    counts = Counter((cell.system, cell.concurrency) for cell in plan)
    assert counts == {(s, n): 1 if s == "float32" else 3 for s in BITS for n in (1, 4)}
    turns = [[c.system for c in plan if (c.concurrency, c.repetition) == (4, r)] for r in range(3)]
    assert [turn[0] for turn in turns] == ["float32", "four-bit", "qsun"]
    assert [c.concurrency for c in plan if c.repetition == 0] == [1] * 4 + [4] * 4


def test_qsun_shares_its_workers_with_the_systems_that_it_is_compared_with() -> None:
    tasks = load_topology(CONFIG).tasks
    assert tasks.keys() == BITS.keys()
    assert tasks["qsun"].prefill == tasks["bfloat16"].prefill
    assert tasks["qsun"].decode == tasks["four-bit"].decode


def test_models_are_made_once_in_both_precisions(tmp_path: Path) -> None:
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 1, "vocab_size": 264}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64}
    said: list[str] = []
    make_models(tmp_path, sizes | heads, said.append)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "base-w4a16", "prefill", "prefill-w4a16"]
    assert len(said) == 4
    assert [is_packed(tmp_path / name) for name in ("base", "base-w4a16")] == [False, True]
    assert {layer.group_size for _, layer in packed_layers(tmp_path / "prefill-w4a16")} == {128}
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("base", "prefill"))
    assert first != second
    make_models(tmp_path, sizes | heads, said.append)
    assert len(said) == 4, "models that exist are kept"


async def test_cell_sends_prompts_of_its_own_and_counts_every_token() -> None:
    asked: list[tuple[str, tuple[int, ...]]] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        asked.append((body["model"], tuple(body["prompt"])))
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)
        for made in range(1, body["max_tokens"] + 1):
            usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": made}
            event = {"choices": [{"text": "a", "finish_reason": None}], "usage": usage}
            await reply.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        await reply.write(b"data: [DONE]\n\n")
        return reply

    app = web.Application()
    app.router.add_post("/v1/completions", answer)
    async with TestServer(app) as server:
        url = str(server.make_url("")).rstrip("/")
        found = await measure(url, Cell("qsun", 3, 0), Lengths(8, 5, 2), seed=0)
        await measure(url, Cell("bfloat16", 3, 0), Lengths(8, 5, 2), seed=0)
        assert Counter(model for model, _ in asked) == {"qsun": 6, "bfloat16": 6}
        assert len({prompt for _, prompt in asked}) == 12, "a shared prefill worker has none of them in its cache"
        assert found.ttft_ms > 0
        assert found.throughput > 0
        with pytest.raises(WorkerError, match="qsun at 1 users"):
            await measure(f"{url}/nowhere", Cell("qsun", 1, 0), Lengths(8, 5, 1), seed=0)


def report(tpot: dict[str, float]) -> Report:
    runs = [
        Run(
            case={"system": system, "bits": BITS[system], "concurrency": users},
            repetition=repetition,
            values={"ttft_ms": 100.0, "tpot_ms": value * users + repetition, "throughput": 1000 / value},
        )
        for system, value in tpot.items()
        for users in (1, 4)
        for repetition in range(3)
    ]
    units = {"ttft_ms": "ms", "tpot_ms": "ms", "throughput": "tokens/s"}
    return new_report("four_bit", "command", runs, units, settings={"prompt": 128, "answer": 48})


@pytest.mark.parametrize(("float32", "full"), [(90.0, "bfloat16"), (50.0, "float32")])
def test_table_compares_with_the_faster_full_precision(float32: float, full: str) -> None:
    made = report({"float32": float32, "bfloat16": 79.0, "four-bit": 30.0, "qsun": 39.0})
    assert faster_full(made, 1) == full
    rows = {line.split(" | ")[0].strip("| "): line for line in render(made).splitlines() if line.startswith("| ")}
    change = "(-50 %)" if full == "bfloat16" else "(-22 %)"
    assert f"| 40 {change} |" in rows["QSUN"]
    assert "%" not in rows[full]
    assert rows["both in 4 bits"].startswith("| both in 4 bits | 4 / 4 | 100 (+0 %) |")
