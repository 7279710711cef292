"""Cost of a training step: SUN, PrefillShare and full fine-tuning on the same batch, interleaved.

    python -m sun_sglang.bench.training.step_cost

A step is the forward pass, the backward pass and AdamW, on random Qwen3 models. Every round runs each scheme once, in a
random order: other load on the machine affects all schemes alike. Memory is counted, not sampled: weights, gradients
and optimizer state, and the distinct storages that autograd keeps for the backward pass.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any

import torch
from pydantic import JsonValue

from sun_sglang.bench.figures.step_cost_table import StepCostTable
from sun_sglang.bench.report import RESULTS, Case, Run, new_report, write_report
from sun_sglang.bench.training.schemes import COMPARED
from sun_sglang.contracts.scheme import Scheme
from sun_sglang.train.data.collate import collate
from sun_sglang.train.data.examples import TokenizedExample
from sun_sglang.train.objective.two_module_loss import TwoModule

# after sun_sglang.train, which makes transformers importable on a machine without a GPU
from transformers import Qwen3Config, Qwen3ForCausalLM  # isort: skip

SIZES: Mapping[str, tuple[int, int]] = MappingProxyType({"2M": (128, 6), "10M": (256, 8), "25M": (384, 10)})
LENGTHS = ((128, 128), (192, 64))
UNITS = {"cpu_s": "s", "state_mib": "MiB", "kept_mib": "MiB"}
_VOCABULARY = 4096


def measure_step_cost(size: str, prompt: int, answer: int, batch: int, rounds: int) -> list[Run]:
    """Measure every scheme on the same batch.

    Args:
        size: key of `SIZES`.
        prompt: tokens of a prompt.
        answer: tokens of an answer.
        batch: examples of a step.
        rounds: timed steps of each scheme.

    Returns:
        One run for each scheme with its memory, and one for each scheme and round with its CPU seconds.
    """
    rng = Random(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(_VOCABULARY) for _ in range(count))

    inputs = collate([TokenizedExample(ids(prompt), ids(answer)) for _ in range(batch)], 0)
    modules = {scheme: _module(size, COMPARED[scheme]) for scheme in COMPARED}
    optimizers = {s: torch.optim.AdamW([p for p in m.parameters() if p.requires_grad]) for s, m in modules.items()}
    cases: dict[str, Case] = {
        scheme: {"size": size, "prompt": prompt, "answer": answer, "batch": batch, "scheme": scheme}
        for scheme in COMPARED
    }
    runs = [
        Run(case=cases[scheme], values={"state_mib": _state(module), "kept_mib": _kept(module, inputs)})
        for scheme, module in modules.items()
    ]
    for number in range(rounds + 1):
        order = list(COMPARED)
        rng.shuffle(order)
        for scheme in order:
            # CPU time of this process: waiting for a core that others use does not count
            started = time.process_time()
            _step(modules[scheme], optimizers[scheme], inputs)
            seconds = time.process_time() - started
            if number > 0:  # the first round is a warm-up
                runs.append(Run(case=cases[scheme], repetition=number - 1, values={"cpu_s": seconds}))
    return runs


def _module(size: str, scheme: Scheme) -> TwoModule:
    hidden, layers = SIZES[size]

    def build() -> Any:
        torch.manual_seed(0)
        config = Qwen3Config(
            vocab_size=_VOCABULARY,
            hidden_size=hidden,
            intermediate_size=3 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 32,
            num_key_value_heads=hidden // 64,
            head_dim=32,
            tie_word_embeddings=True,
        )
        return Qwen3ForCausalLM(config)

    prefill = build()
    return TwoModule(prefill, prefill if scheme.one_module else build(), scheme).train()


def _step(module: TwoModule, optimizer: torch.optim.Optimizer, inputs: Mapping[str, torch.Tensor]) -> None:
    optimizer.zero_grad()
    loss = module(**inputs).loss
    loss.backward()
    optimizer.step()


def _kept(module: TwoModule, inputs: Mapping[str, torch.Tensor]) -> float:
    """Return the MiB that autograd keeps after a forward pass, without the weights."""
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
    sizes: dict[int, int] = {}
    held: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)  # else the allocator may reuse its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = module(**inputs).loss
    del loss
    return sum(sizes.values()) / 2**20


def _state(module: TwoModule) -> float:
    """Return the MiB of weights, gradients and optimizer state."""
    # a trained weight has a gradient and AdamW's two moments
    return sum(p.numel() * p.element_size() * (4 if p.requires_grad else 1) for p in module.parameters()) / 2**20


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sun_sglang.bench.training.step_cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=7, help="timed steps of each scheme")
    parser.add_argument("--batch", type=int, nargs="+", default=[2, 8], metavar="N", help="examples a step (2 8)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the report and of the table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs: list[Run] = []
    for size, (prompt, answer), batch in product(SIZES, LENGTHS, arguments.batch):
        runs += measure_step_cost(size, prompt, answer, batch, arguments.rounds)
    batches = " ".join(map(str, arguments.batch))
    command = f"python -m sun_sglang.bench.training.step_cost --rounds {arguments.rounds} --batch {batches}"
    settings: dict[str, JsonValue] = {"threads": 1, "rounds": arguments.rounds}
    report = new_report("training_step_cost", command, runs, UNITS, settings=settings)
    write_report(report, arguments.out / "training_step_cost.json")
    sys.stdout.write(StepCostTable().draw(arguments.out, arguments.out).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
