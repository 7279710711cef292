"""Which prompt of a dataset a request has.

Texts are sent whole: nothing here has a tokenizer, so a text is neither cut nor extended, and its input length is the
server's count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sun_sglang.bench.load.workload.planned import Prompt
from sun_sglang.bench.load.workload.seeds import stream


class DatasetPrompts:
    """The prompts of datasets, each task's in an order that the seed draws, from the start again after the last.

    Of as many requests in a row as a task's dataset has prompts, no two of that task have the same prompt.

    Args:
        seed: the benchmark's seed.
        prompts: the prompts of each task; tasks may share one sequence.
        digest: identifies the files.
    """

    def __init__(self, seed: int, prompts: Mapping[str, Sequence[Prompt]], digest: str) -> None:
        self._prompts = prompts
        self.digest = f"{digest} seed {seed}"
        self._order: dict[str, list[int]] = {}
        for task, own in prompts.items():
            # tasks that share a dataset have different orders
            self._order[task] = order = list(range(len(own)))
            stream(seed, "dataset", task).shuffle(order)

    def prompt(self, index: int, task: str, tokens: int) -> Prompt:
        """Return the prompt of a request, whole; `tokens` is not used."""
        order = self._order[task]
        return self._prompts[task][order[index % len(order)]]
