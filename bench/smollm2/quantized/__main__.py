"""Table 3 of the SUN paper on SmolLM2-135M: accuracy with a 4-bit shared decoder.

    python -m sun_sglang.bench.smollm2.quantized

Each finished part stays in `--work`: an interrupted benchmark continues where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sun_sglang.bench.smollm2.errors import ModelError
from sun_sglang.bench.smollm2.model import BASE
from sun_sglang.bench.smollm2.quantized.recipes import EXAMPLES, FULL, SUN, Setting, Tuning
from sun_sglang.bench.smollm2.quantized.tunings import Tunings
from sun_sglang.errors import UserError


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m sun_sglang.bench.smollm2.quantized",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--work", type=Path, default=BASE.parent / "quantized", help="everything that is made")
    parser.add_argument("--jobs", type=int, default=1, help="tunings at once")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each")
    options = parser.parse_args(arguments)
    setting = Setting(EXAMPLES)
    try:
        if not (BASE / "config.json").exists():
            raise ModelError(f"{BASE}: no model; make it first: `make model`")
        tunings = Tunings({"base": BASE}, options.work, setting, options.threads, _say)
        tunings.do_all((Tuning(t, s, k) for s in setting.seeds for t in EXAMPLES for k in (SUN, FULL)), options.jobs)
    except UserError as e:
        _say(f"quantized: {e}")
        return 1
    return 0


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
