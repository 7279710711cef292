"""Cost of a training step: SUN, QSUN, PrefillShare and full fine-tuning on the same batch, interleaved.

    python -m sun_sglang.bench.training.step_cost

A step is the forward pass, the backward pass and AdamW, on random Qwen3 models. Every round runs each scheme once, in a
random order: other load on the machine affects all schemes alike. Memory is counted, not sampled: weights, gradients
and optimizer state, and the distinct storages that autograd keeps for the backward pass. QSUN's decode module has
packed 4-bit weights. It dequantises one layer at a time: that is in the seconds, and not in the memory.
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
from sun_sglang.packed_weights.layer import pack_rounded
from sun_sglang.packed_weights.rounding import round_to_nearest
from sun_sglang.train.data.collate import collate
from sun_sglang.train.data.examples import TokenizedExample
from sun_sglang.train.objective.two_module_loss import TwoModule
from sun_sglang.train.quantized.packed_linear import PackedLinear

# after sun_sglang.train, which makes transformers importable on a machine without a GPU
from transformers import Qwen3Config, Qwen3ForCausalLM  # isort: skip

SIZES: Mapping[str, tuple[int, int]] = MappingProxyType({"2M": (128, 6), "10M": (256, 8), "25M": (384, 10)})
LENGTHS = ((128, 128), (192, 64))
# beside the schemes of the papers: SUN's with a quantised decode module
QSUN = "qsun"
MEASURED: Mapping[str, Scheme] = MappingProxyType({**COMPARED, QSUN: COMPARED["prefill_only"]})
BITS, GROUP = 4, 128
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
    modules = {name: _module(size, scheme, quantized=name == QSUN) for name, scheme in MEASURED.items()}
    optimizers = {s: torch.optim.AdamW([p for p in m.parameters() if p.requires_grad]) for s, m in modules.items()}
    cases: dict[str, Case] = {
        scheme: {"size": size, "prompt": prompt, "answer": answer, "batch": batch, "scheme": scheme}
        for scheme in MEASURED
    }
    runs = [
        Run(case=cases[scheme], values={"state_mib": _state(module), "kept_mib": _kept(module, inputs)})
        for scheme, module in modules.items()
    ]
    for number in range(rounds + 1):
        order = list(MEASURED)
        rng.shuffle(order)
        for scheme in order:
            # CPU time of this process: waiting for a core that others use does not count
            started = time.process_time()
            _step(modules[scheme], optimizers[scheme], inputs)
            seconds = time.process_time() - started
            if number > 0:  # the first round is a warm-up
                runs.append(Run(case=cases[scheme], repetition=number - 1, values={"cpu_s": seconds}))
    return runs


def _module(size: str, scheme: Scheme, *, quantized: bool) -> TwoModule:
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
    decode = prefill if scheme.one_module else build()
    if quantized:
        _pack(decode)
    return TwoModule(prefill, decode, scheme).train()


def _pack(model: Any) -> None:
    """Round the linear layers of a model's decoder layers to 4 bits, in place."""
    linear = {name: layer for name, layer in model.model.layers.named_modules() if isinstance(layer, torch.nn.Linear)}
    for name, layer in linear.items():
        rounded = round_to_nearest(layer.weight.detach(), BITS, GROUP)
        model.model.layers.set_submodule(name, PackedLinear(pack_rounded(rounded)))


def _step(module: TwoModule, optimizer: torch.optim.Optimizer, inputs: Mapping[str, torch.Tensor]) -> None:
    optimizer.zero_grad()
    loss = module(**inputs).loss
    loss.backward()
    optimizer.step()


def _kept(module: TwoModule, inputs: Mapping[str, torch.Tensor]) -> float:
    """Return the MiB that autograd keeps after a forward pass, without the weights."""
    weights = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}
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
    parameters = sum(p.nbytes * (4 if p.requires_grad else 1) for p in module.parameters())
    return (parameters + sum(b.nbytes for b in module.buffers())) / 2**20


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
