"""Score a task without servers: the base, its SUN adapter, ordinary LoRA and naive sharing.

    python -m sun_sglang.bench.smollm2.english.score extract

Answers the task's test questions greedily with two modules (`train/reference.py`) in bfloat16, an adapter not merged,
as the demo serves them. Each way that is finished leaves a file, and a second run keeps it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from sun_sglang.bench.smollm2.english.build import DATA
from sun_sglang.bench.smollm2.english.scorers import SCORERS
from sun_sglang.bench.smollm2.model import BASE

BUILT = Path("build/english")
SCORES = BUILT / "scores"
_BATCH = 200
_SPARE = 8  # tokens that an answer may be longer than the row's own


class Way(NamedTuple):
    """One way to answer: the adapter (of `build/english`) of each phase; None for the untuned base."""

    prefill: str | None
    decode: str | None


def ways(task: str) -> dict[str, Way]:
    """Return the ways of a task, by name."""
    full = f"full/{task}"
    return {
        "base": Way(None, None),
        "sun": Way(task, None),
        "lora": Way(full, full),
        "naive": Way(full, None),
    }


def score(task: str, name: str, way: Way, limit: int | None = None) -> dict[str, Any]:
    """Answer a task's questions in one way; return `correct`, `total`, `percent`, `low`, `high` and the answers.

    Args:
        task: the task.
        name: the name of the way.
        way: the adapters.
        limit: answer only so many questions; None for all.
    """
    import sun_sglang.train  # repairs the import of torchvision  # noqa: I001
    import torch
    from transformers import AutoTokenizer

    from sun_sglang.evaluation.exact_match import exact_match
    from sun_sglang.evaluation.questions import read_questions
    from sun_sglang.train.reference import greedy

    del sun_sglang
    file = DATA / f"{task}.test.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()][:limit]
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    questions = read_questions(file, tokenizer, BASE, BASE, limit)
    assert len(questions.examples) == len(rows)
    base = _load(None)
    modules = {None: base} | {name: _load(name) for name in way if name is not None}
    order = sorted(range(len(rows)), key=lambda i: len(questions.examples[i].answer))
    answers: dict[int, str] = {}
    start = time.process_time()
    for first in range(0, len(order), _BATCH):
        part = order[first : first + _BATCH]
        found = greedy(
            modules[way.prefill],
            modules[way.decode],
            [questions.examples[i].prompt for i in part],
            max_new_tokens=len(questions.examples[part[-1]].answer) + _SPARE,
            end_tokens=questions.end_tokens,
        )
        for i, output in zip(part, found, strict=True):
            answers[i] = tokenizer.decode([t for t in output.tokens if t not in questions.end_tokens])
        _say(f"{task} {name}: {len(answers)} of {len(rows)}, {time.process_time() - start:.0f} CPU s")
    right = [SCORERS[task](answers[i], row) for i, row in enumerate(rows)]
    torch.set_num_threads(1)
    return {
        "task": task,
        "way": name,
        **asdict(exact_match(sum(right), len(right))),
        "rows": [
            {"right": ok, "answer": answers[i], "expected": row["answer"]}
            for i, (ok, row) in enumerate(zip(right, rows, strict=True))
        ],
    }


def _load(adapter: str | None) -> Any:
    """Return the base in bfloat16, with an adapter of `build/english` in bfloat16 that is not merged."""
    import torch

    from sun_sglang.train.checkpoint import load_model

    model = load_model(BASE, torch.bfloat16)
    # torch's fused attention in bfloat16 on a CPU is slow
    model.set_attn_implementation("eager")
    if adapter is None:
        return model
    from peft import PeftModel

    tuned = PeftModel.from_pretrained(model, BUILT / adapter / "adapter", autocast_adapter_dtype=False)
    return tuned.to(torch.bfloat16).eval()


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m sun_sglang.bench.smollm2.english.score", description=__doc__.splitlines()[0]
    )
    parser.add_argument("task", choices=SCORERS)
    parser.add_argument("--way", action="append", help="base, sun, lora, naive; default: each whose adapter exists")
    parser.add_argument("--adapter", help="score this adapter of build/english (such as rank/4) as the prefill module")
    parser.add_argument("--limit", type=int, help="number of questions; nothing is written then")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    options = parser.parse_args(arguments)
    import torch

    torch.set_num_threads(options.threads)
    known: Mapping[str, Way] = ways(options.task)
    if options.adapter:
        known = {options.adapter: Way(options.adapter, None)}
    for name, way in known.items():
        file = SCORES / options.task / f"{name}.json"
        if (options.way and name not in options.way) or (file.exists() and options.limit is None):
            continue
        if not all(adapter is None or (BUILT / adapter / "adapter").exists() for adapter in way):
            _say(f"{options.task} {name}: no adapter yet")
            continue
        found = score(options.task, name, way, options.limit)
        _say(f"{options.task} {name}: {found['percent']} % [{found['low']}, {found['high']}]")
        if options.limit is None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        else:
            for row in found["rows"][:10]:
                _say(f"  {row}")
    return 0


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
