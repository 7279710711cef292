"""Training throughput of three ways to batch examples: padding, grouping by length, and packing.

    python -m sun_sglang.demo.data_files --out build/demo-data
    python -m sun_sglang.bench.training.packing build/demo-data/math.train.jsonl  # lengths of a data set
    python -m sun_sglang.bench.training.packing  # lengths from 16 to 512, long ones rare

Trains the demo's base prefill-only. Every round runs one step of each way, with the same number of examples, in a
random order: other load on the machine affects all ways alike. Seconds are this process's CPU time, on one thread.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random

import torch
from pydantic import JsonValue

from sun_sglang.bench.report import RESULTS, Run, new_report, write_report
from sun_sglang.contracts.scheme import SCHEMES
from sun_sglang.train.checkpoint import load_model
from sun_sglang.train.data.collate import LengthGrouped, collate
from sun_sglang.train.data.examples import TokenizedExample, encode, read_jsonl
from sun_sglang.train.data.packing import PackedRows, Row, collate_row
from sun_sglang.train.objective.packed_attention import PACKED
from sun_sglang.train.objective.two_module_loss import TwoModule

# after sun_sglang.train, which makes transformers importable on a machine without a GPU
from transformers import AutoTokenizer  # isort: skip

UNITS = {"tokens": "1", "padded_tokens": "1", "tokens_per_cpu_s": "1/s"}
Step = Sequence[Mapping[str, torch.Tensor]]


def long_tailed(count: int, seed: int) -> list[TokenizedExample]:
    """Return examples of random tokens whose lengths (prompt and answer) are log-normal around 96, from 16 to 512."""
    rng, found = Random(seed), list[TokenizedExample]()
    while len(found) < count:
        length = round(rng.lognormvariate(4.56, 0.7))
        if 16 <= length <= 512:
            ids = tuple(rng.randrange(256) for _ in range(length))
            found.append(TokenizedExample(ids[: length // 2], ids[length // 2 :]))
    return found


def batch_ways(examples: Sequence[TokenizedExample], batch: int, micro: int, tokens: int) -> dict[str, Iterator[Step]]:
    """Return an iterator over steps for each way, by its name.

    Args:
        examples: the data set.
        batch: examples a step.
        micro: examples that are padded together.
        tokens: longest packed row.
    """
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


def measure_throughput(base: Path, steps: Mapping[str, Iterator[Step]], rounds: int) -> list[Run]:
    """Train on each way's steps, one step of each way a round, in an order that changes.

    Args:
        base: the model that is trained.
        steps: an iterator over the steps of each way.
        rounds: timed steps of each way.

    Returns:
        A run for each step: tokens without padding, tokens with padding, and tokens without padding that a CPU second
        trains on.
    """
    prefill, decode = load_model(base), load_model(base)
    for model in (prefill, decode):
        model.set_attn_implementation(PACKED)
    module = TwoModule(prefill, decode, SCHEMES["prefill_only"]).train()
    optimizer = torch.optim.AdamW(module.prefill.parameters(), lr=1e-5)
    rng = Random(0)
    runs = []
    for number in range(rounds + 1):
        for name in rng.sample(list(steps), len(steps)):
            step = next(steps[name])
            started = time.process_time()
            _run(module, optimizer, step)
            seconds = time.process_time() - started
            if number > 0:  # the first round is a warm-up
                real, padded = _tokens(step)
                values = {"tokens": real, "padded_tokens": padded, "tokens_per_cpu_s": real / seconds}
                runs.append(Run(case={"batches": name}, repetition=number - 1, values=values))
    return runs


def padding_share(runs: Sequence[Run]) -> float:
    """Return the share of padding among all tokens that were run, from 0 to 1."""
    return 1 - sum(run.values["tokens"] for run in runs) / sum(run.values["padded_tokens"] for run in runs)


def _run(module: TwoModule, optimizer: torch.optim.Optimizer, step: Step) -> None:
    optimizer.zero_grad()
    answers = sum(int((batch["labels"] >= 0).sum()) for batch in step)
    for batch in step:
        module(**batch, num_items_in_batch=answers).loss.backward()
    optimizer.step()


def _tokens(step: Step) -> tuple[int, int]:
    """Return the tokens of a step without and with padding."""
    real = sum(int((batch["prompt_mask"] > 0).sum() + (batch["labels"] >= 0).sum()) for batch in step)
    return real, sum(batch["prompt_mask"].numel() + batch["labels"].numel() for batch in step)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sun_sglang.bench.training.packing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", type=Path, nargs="?", help="a JSONL file; left out, random lengths")
    parser.add_argument("--base", type=Path, default=Path("configs/demo/models/base"), help="the model that is trained")
    parser.add_argument("--rounds", type=int, default=15, help="timed steps of each way")
    parser.add_argument("--batch", type=int, default=32, help="examples a step")
    parser.add_argument("--micro", type=int, default=8, help="examples that are padded together")
    parser.add_argument("--tokens", type=int, default=512, help="longest packed row")
    parser.add_argument("--out", type=Path, default=RESULTS / "training_packing.json", help="the report")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.data is None:
        examples = long_tailed((arguments.rounds + 1) * arguments.batch, 0)
    else:
        tokenizer = AutoTokenizer.from_pretrained(arguments.base)
        examples = [encode(tokenizer, example) for example in read_jsonl(arguments.data)]
    steps = batch_ways(examples, arguments.batch, arguments.micro, arguments.tokens)
    runs = measure_throughput(arguments.base, steps, arguments.rounds)
    names = ("rounds", "batch", "micro", "tokens")
    options = " ".join(f"--{name} {getattr(arguments, name)}" for name in names)
    data = f" {arguments.data.name}" if arguments.data else ""
    command = f"python -m sun_sglang.bench.training.packing{data} {options}"
    settings: dict[str, JsonValue] = {"threads": 1, **{name: getattr(arguments, name) for name in names}}
    report = new_report("training_packing", command, runs, UNITS, seeds=[0], settings=settings)
    write_report(report, arguments.out)
    for name in steps:
        speed = report.median("tokens_per_cpu_s", {"batches": name})
        padding = padding_share(list(report.select("tokens", batches=name)))
        sys.stdout.write(f"{name}: {speed:.0f} tokens per CPU second, {100 * padding:.0f} % padding\n")


if __name__ == "__main__":
    main()
