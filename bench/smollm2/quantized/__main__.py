"""Table 3 of the SUN paper on SmolLM2-135M: accuracy with a 4-bit shared decoder.

    python -m sun_sglang.bench.smollm2.quantized

Each finished part stays in `--work`: an interrupted benchmark continues where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from sun_sglang.bench.smollm2 import model
from sun_sglang.bench.smollm2.errors import ModelError
from sun_sglang.bench.smollm2.quantized.recipes import BASE, EXAMPLES, FULL, SUN, Setting, Tuning
from sun_sglang.bench.smollm2.quantized.tunings import Tunings
from sun_sglang.bench.training.stored import stored_folder
from sun_sglang.errors import UserError
from sun_sglang.train.checkpoint import load_model, load_tokenizer, save_model


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m sun_sglang.bench.smollm2.quantized",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--work", type=Path, default=model.BASE.parent / "quantized", help="everything that is made"
    )
    parser.add_argument("--jobs", type=int, default=1, help="tunings at once")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each")
    options = parser.parse_args(arguments)
    setting = Setting(EXAMPLES)
    torch.set_num_threads(options.threads)
    try:
        if not (model.BASE / "config.json").exists():
            raise ModelError(f"{model.BASE}: no model; make it first: `make model`")
        base = stored_folder(options.work / "base", _write_bfloat16)
        tunings = Tunings({BASE: base}, options.work, setting, options.threads, _say)
        tunings.do_all([Tuning(task, setting.seed, scheme) for task in EXAMPLES for scheme in (SUN, FULL)], options.jobs)
    except UserError as e:
        _say(f"quantized: {e}")
        return 1
    return 0


def _write_bfloat16(out: Path) -> None:
    """Write the base in the 16 bits in which it is served."""
    save_model(load_model(model.BASE), load_tokenizer(model.BASE), out, torch.bfloat16)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
