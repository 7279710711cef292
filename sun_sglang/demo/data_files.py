"""Write the data files that `configs/train/demo` reads, for the demo's tasks and a third task.

python -m sun_sglang.demo.data_files --out build/demo-data
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sun_sglang.demo.tasks import TASKS, order
from sun_sglang.train.data.examples import draw, write_jsonl


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m sun_sglang.demo.data_files", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/demo-data"))
    parser.add_argument("--count", type=int, default=6400, help="training examples of each task")
    parser.add_argument("--held-out", type=int, default=300, help="validation and test examples of each task")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for name, generator in {**TASKS, "order": order}.items():
        for split, count in (
            ("train", arguments.count),
            ("validation", arguments.held_out),
            ("test", arguments.held_out),
        ):
            examples = draw(generator, split, count, arguments.seed)  # type: ignore[arg-type] # the names are splits
            write_jsonl(arguments.out / f"{name}.{split}.jsonl", examples)


if __name__ == "__main__":
    main()
