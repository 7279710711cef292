"""Write the data of the English tasks from their public sources.

    python -m sun_sglang.bench.smollm2.english.build --sources DIR [--task call]

DIR holds `bfcl-eval` (the wheel, unpacked) and checkouts of `nlu-benchmark`, `oos-eval`,
`task-specific-datasets` and `tldr`: configs/english/README.md has the versions. The same sources give the same bytes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from sun_sglang.bench.smollm2.english import call, extract, intent, language, shell, topic
from sun_sglang.bench.smollm2.english.rows import Splits, write_rows

DATA = Path("configs/english/data")
SOURCES: Mapping[str, tuple[str, Callable[[Path], Splits]]] = MappingProxyType(
    {
        "call": ("bfcl-eval", call.splits),
        "extract": ("nlu-benchmark", extract.splits),
        "intent": ("task-specific-datasets", intent.splits),
        "language": ("tldr", language.splits),
        "shell": ("tldr", shell.splits),
        "topic": ("oos-eval", topic.splits),
    }
)
"""The folder of each task's source, and its builder."""


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m sun_sglang.bench.smollm2.english.build", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--sources", type=Path, required=True, help="folder of the sources")
    parser.add_argument("--task", choices=SOURCES, action="append", help="default: all")
    parser.add_argument("--out", type=Path, default=DATA, help="folder of the files")
    options = parser.parse_args(arguments)
    for task in options.task or SOURCES:
        folder, builder = SOURCES[task]
        try:
            splits = builder(options.sources / folder)
        except OSError as e:
            sys.stderr.write(f"{task}: {e.filename}: {e.strerror}; get the source as configs/english/README.md says\n")
            return 1
        for split, rows in splits.items():
            write_rows(options.out / f"{task}.{split}.jsonl", rows)
            sys.stderr.write(f"{task}: {len(rows)} rows of {split}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
