"""What a training step costs: SUN, PrefillShare and full fine-tuning on the same batch, in one interleaved run.

    python -m sun_sglang.bench.training.step_cost

A step is forward, backward and AdamW, of random Qwen3 models. Every round runs each scheme once, in an order that
changes, so that other load falls on all alike; the ratio is of medians. Memory is counted, not sampled: weights,
gradients and optimizer state, and the distinct storages that autograd keeps for the backward pass.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any

import torch

from sun_sglang.train.data.collate import collate
from sun_sglang.train.data.examples import Encoded
from sun_sglang.train.objective.two_module import FirstToken, Scheme, TwoModule

# after sun_sglang.train, which makes transformers importable on a machine without a GPU
from transformers import Qwen3Config, Qwen3ForCausalLM  # isort: skip

SCHEMES: Mapping[Scheme, FirstToken] = MappingProxyType(
    {"full": "prefill", "prefill_only": "prefill", "decode_only": "decode"}
)
SIZES: Mapping[str, tuple[int, int]] = MappingProxyType({"2M": (128, 6), "10M": (256, 8), "25M": (384, 10)})
LENGTHS = ((128, 128), (192, 64))
_VOCABULARY = 4096


@dataclass(frozen=True)
class Cost:
    """One scheme at one size.

    Attributes:
        seconds: CPU seconds of a step, the median.
        fastest: of all rounds.
        state: MiB of weights, gradients and optimizer state.
        activations: MiB kept for the backward pass.
    """

    seconds: float
    fastest: float
    state: float
    activations: float

    @property
    def memory(self) -> float:
        """MiB in all."""
        return self.state + self.activations


def measure(size: str, prompt: int, answer: int, batch: int, rounds: int) -> dict[str, Cost]:
    """The cost of every scheme on the same batch."""
    rng = Random(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(_VOCABULARY) for _ in range(count))

    inputs = collate([Encoded(ids(prompt), ids(answer)) for _ in range(batch)], 0)
    modules = {scheme: _module(size, scheme) for scheme in SCHEMES}
    optimizers = {s: torch.optim.AdamW([p for p in m.parameters() if p.requires_grad]) for s, m in modules.items()}
    kept = {scheme: _kept(module, inputs) for scheme, module in modules.items()}
    seconds: dict[Scheme, list[float]] = {scheme: [] for scheme in SCHEMES}
    for number in range(rounds + 1):
        order = list(SCHEMES)
        rng.shuffle(order)
        for scheme in order:
            # of this process alone: waiting for a core that others use is not counted
            started = time.process_time()
            _step(modules[scheme], optimizers[scheme], inputs)
            if number > 0:
                seconds[scheme].append(time.process_time() - started)
    return {
        scheme: Cost(
            statistics.median(seconds[scheme]), min(seconds[scheme]), _state(module) / 2**20, kept[scheme] / 2**20
        )
        for scheme, module in modules.items()
    }


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
    return TwoModule(prefill, prefill if scheme == "full" else build(), scheme, SCHEMES[scheme]).train()


def _step(module: TwoModule, optimizer: torch.optim.Optimizer, inputs: Mapping[str, torch.Tensor]) -> None:
    optimizer.zero_grad()
    loss = module(**inputs).loss
    loss.backward()
    optimizer.step()


def _kept(module: TwoModule, inputs: Mapping[str, torch.Tensor]) -> int:
    """Bytes that autograd keeps after a forward, weights not among them."""
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
    sizes: dict[int, int] = {}
    held: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)  # or its address might be given to another
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = module(**inputs).loss
    del loss
    return sum(sizes.values())


def _state(module: TwoModule) -> int:
    # a trained weight has a gradient and AdamW's two moments
    return sum(p.numel() * p.element_size() * (4 if p.requires_grad else 1) for p in module.parameters())


def render(report: Mapping[str, Any]) -> str:
    """The measurements as a Markdown table."""
    lines = [
        "# Cost of a training step",
        "",
        f"CPU seconds of forward, backward and AdamW (median of {report['rounds']} interleaved rounds, float32, "
        f"{report['machine']}), and MiB: weights with gradients and optimizer state, plus what autograd keeps for the "
        "backward pass. In brackets against full fine-tuning.",
        "",
        "| model, prompt + answer tokens | batch | scheme | seconds | state MiB | kept MiB | memory MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        full = row["costs"]["full"]
        for scheme, cost in row["costs"].items():
            memory, whole = cost["state"] + cost["activations"], full["state"] + full["activations"]
            cells = (
                f"{row['size']}, {row['prompt']} + {row['answer']}",
                row["batch"],
                scheme,
                f"{cost['seconds']:.3f} ({cost['seconds'] / full['seconds']:.2f}x)",
                f"{cost['state']:.0f}",
                f"{cost['activations']:.0f} ({cost['activations'] / full['activations']:.2f}x)",
                f"{memory:.0f} ({memory / whole:.2f}x)",
            )
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join([*lines, "", f"Made by `{report['command']}`.", ""])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sun_sglang.bench.training.step_cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, nargs="+", default=[2, 8], metavar="N", help="examples a step (2 8)")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for size, (prompt, answer), batch in product(SIZES, LENGTHS, arguments.batch):
        costs = measure(size, prompt, answer, batch, arguments.rounds)
        rows.append(
            {
                "size": size,
                "prompt": prompt,
                "answer": answer,
                "batch": batch,
                "costs": {scheme: asdict(cost) for scheme, cost in costs.items()},
            }
        )
    batches = " ".join(map(str, arguments.batch))
    report = {
        "command": f"python -m sun_sglang.bench.training.step_cost --rounds {arguments.rounds} --batch {batches}",
        "machine": f"{platform.machine()}, 1 thread of {os.cpu_count()} cores, torch {torch.__version__}",
        "rounds": arguments.rounds,
        "rows": rows,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "training_cost.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (arguments.out / "training_cost.md").write_text(render(report), encoding="utf-8")
    sys.stdout.write(render(report))


if __name__ == "__main__":
    main()
