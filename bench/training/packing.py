"""Padding, grouping by length and packing: what the same training steps take, in one interleaved run.

    python -m sun_sglang.demo.data_files --out build/demo-data
    python -m sun_sglang.bench.training.packing build/demo-data/math.train.jsonl  # lengths of a data set
    python -m sun_sglang.bench.training.packing  # lengths from 16 to 512, long ones rare

The demo's base is trained prefill-only. Every round runs one step in each way, of as many examples, in an order that
changes, so that other load falls on all alike. Seconds are this process's CPU time, on one thread.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random

import torch

from sun_sglang.contracts.scheme import SCHEMES
from sun_sglang.train.checkpoint import load_model
from sun_sglang.train.data.collate import LengthGrouped, collate
from sun_sglang.train.data.examples import TokenizedExample, encode, read_jsonl
from sun_sglang.train.data.packing import PackedRows, Row, collate_row
from sun_sglang.train.objective.packed_attention import PACKED
from sun_sglang.train.objective.two_module import TwoModule

# after sun_sglang.train, which makes transformers importable on a machine without a GPU
from transformers import AutoTokenizer  # isort: skip

Step = Sequence[Mapping[str, torch.Tensor]]


def long_tailed(count: int, seed: int) -> list[TokenizedExample]:
    """Random tokens whose lengths, prompt and answer together, are log-normal between 16 and 512 around 96."""
    rng, found = Random(seed), list[TokenizedExample]()
    while len(found) < count:
        length = round(rng.lognormvariate(4.56, 0.7))
        if 16 <= length <= 512:
            ids = tuple(rng.randrange(256) for _ in range(length))
            found.append(TokenizedExample(ids[: length // 2], ids[length // 2 :]))
    return found


def ways(examples: Sequence[TokenizedExample], batch: int, micro: int, tokens: int) -> dict[str, Iterator[Step]]:
    """Steps of `batch` examples each: padded and grouped in micro batches of `micro`, packed in rows of `tokens`."""
    lengths = [len(e.prompt) + len(e.answer) for e in examples]
    shuffled = list(range(len(examples)))
    Random(0).shuffle(shuffled)
    packed = PackedRows(lengths, batch, tokens, 1, seed=0)

    def padded(order: Iterable[int]) -> Iterator[Step]:
        indices = list(order)
        for start in range(0, len(indices) - batch + 1, batch):
            step = indices[start : start + batch]
            parts = [step[i : i + micro] for i in range(0, batch, micro)]
            yield [collate([examples[i] for i in part], 0) for part in parts]

    def rows() -> Iterator[Step]:
        order = list(packed)
        for start in range(0, len(examples) // batch * packed.per_step, packed.per_step):
            step = order[start : start + packed.per_step]
            yield [collate_row(Row(tuple(examples[i] for i in row))) for row in step]

    return {"padded": padded(shuffled), "grouped": padded(LengthGrouped(lengths, batch, seed=0)), "packed": rows()}


def measure_throughput(base: Path, steps: Mapping[str, Iterator[Step]], rounds: int) -> dict[str, tuple[float, float]]:
    """Tokens, without padding, that a CPU second trains on (the median of the steps), and the share of padding."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    tokens: dict[str, list[tuple[int, int]]] = {name: [] for name in steps}
    prefill, decode = load_model(base), load_model(base)
    for model in (prefill, decode):
        model.set_attn_implementation(PACKED)
    module = TwoModule(prefill, decode, SCHEMES["prefill_only"]).train()
    optimizer = torch.optim.AdamW(module.prefill.parameters(), lr=1e-5)
    rng = Random(0)
    for number in range(rounds + 1):
        for name in rng.sample(list(steps), len(steps)):
            step = next(steps[name])
            started = time.process_time()
            _run(module, optimizer, step)
            if number > 0:
                seconds[name].append(time.process_time() - started)
                tokens[name].append(_tokens(step))
    return {
        name: (
            statistics.median(real / second for (real, _), second in zip(tokens[name], seconds[name], strict=True)),
            1 - sum(real for real, _ in tokens[name]) / sum(run for _, run in tokens[name]),
        )
        for name in steps
    }


def _run(module: TwoModule, optimizer: torch.optim.Optimizer, step: Step) -> None:
    optimizer.zero_grad()
    answers = sum(int((batch["labels"] >= 0).sum()) for batch in step)
    for batch in step:
        module(**batch, num_items_in_batch=answers).loss.backward()
    optimizer.step()


def _tokens(step: Step) -> tuple[int, int]:
    """Tokens of a step, and how many were run for them."""
    real = sum(int((batch["prompt_mask"] > 0).sum() + (batch["labels"] >= 0).sum()) for batch in step)
    return real, sum(batch["prompt_mask"].numel() + batch["labels"].numel() for batch in step)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sun_sglang.bench.training.packing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", type=Path, nargs="?", help="a JSONL file; random lengths without one")
    parser.add_argument("--base", type=Path, default=Path("configs/demo/models/base"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=32, help="examples a step")
    parser.add_argument("--micro", type=int, default=8, help="examples that are padded together")
    parser.add_argument("--tokens", type=int, default=512, help="longest packed row")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.data is None:
        examples = long_tailed((arguments.rounds + 1) * arguments.batch, 0)
    else:
        tokenizer = AutoTokenizer.from_pretrained(arguments.base)
        examples = [encode(tokenizer, example) for example in read_jsonl(arguments.data)]
    steps = ways(examples, arguments.batch, arguments.micro, arguments.tokens)
    for name, (speed, padding) in measure_throughput(arguments.base, steps, arguments.rounds).items():
        sys.stdout.write(f"{name}: {speed:.0f} tokens a second, {100 * padding:.0f} % padding\n")


if __name__ == "__main__":
    main()
