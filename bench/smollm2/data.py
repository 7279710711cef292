"""The data of the four tasks: the demo's two, letters in order, and letters reversed.

The generators are the demo's, with a seed; questions of the validation split are never in the training split.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from sun_sglang.demo.mixture import reverse
from sun_sglang.demo.tasks import TASKS as DEMO_TASKS
from sun_sglang.demo.tasks import order
from sun_sglang.train.data.examples import Generator, Split, draw, write_jsonl

TASKS: Mapping[str, Generator] = MappingProxyType({**DEMO_TASKS, "order": order, "reverse": reverse})
EXAMPLES: Mapping[Split, int] = MappingProxyType({"train": 240, "validation": 24})
SEED = 0


def write_data(folder: Path) -> None:
    """Write the files that `configs/smollm2/train` reads; the same bytes each time."""
    for task, generator in TASKS.items():
        for split, count in EXAMPLES.items():
            write_jsonl(data_file(folder, task, split), draw(generator, split, count, SEED))


def data_file(folder: Path, task: str, split: Split) -> Path:
    """Return the file of a task's examples."""
    return folder / f"{task}.{split}.jsonl"
