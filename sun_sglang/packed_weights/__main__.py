"""Round a checkpoint to the nearest integers, without calibration data.

    python -m sun_sglang.packed_weights configs/demo/models/base configs/demo/models/base-w4a16 --group-size 32

`sun quantize` calibrates; this command makes the demo's and the benchmarks' models, whose files a second run repeats.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sun_sglang.errors import UserError
from sun_sglang.packed_weights.checkpoint import write_rounded


def main() -> int:
    """Run the command line and return the exit code."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="python -m sun_sglang.packed_weights", description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="directory of the checkpoint")
    parser.add_argument("out", type=Path, help="directory to write")
    parser.add_argument("--bits", type=int, default=4, choices=range(2, 9), help="bits of one weight")
    parser.add_argument("--group-size", type=int, default=128, help="inputs that share a scale; 0 for a whole row")
    arguments = parser.parse_args()
    try:
        write_rounded(arguments.model, arguments.out, arguments.bits, arguments.group_size or None)
    except UserError as e:
        sys.stderr.write(f"{e}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
