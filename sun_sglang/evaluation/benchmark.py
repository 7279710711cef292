"""Parse the arguments of `sun eval`, such as `math=gsm8k,gsm_plus`, into benchmarks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from sun_sglang.errors import UserError

Harness = Literal["lm-eval", "evalplus", "bfcl"]
_OTHERS: tuple[Harness, ...] = ("evalplus", "bfcl")


@dataclass(frozen=True)
class Benchmark:
    """One benchmark for one task.

    Attributes:
        task: the model name at the router.
        harness: the harness that runs it.
        name: an lm-eval task or its YAML file, an EvalPlus data set, or `MODEL:CATEGORY` of BFCL.
    """

    task: str
    harness: Harness
    name: str

    def __str__(self) -> str:
        prefix = "" if self.harness == "lm-eval" else f"{self.harness}:"
        return f"{self.task}={prefix}{self.name}"


def parse_benchmarks(asked: Iterable[str]) -> list[Benchmark]:
    """Return the benchmarks of arguments of the form `TASK=BENCHMARK[,BENCHMARK]`, in order.

    Raises:
        UserError: an argument has another form, or a benchmark is given twice.
    """
    found: list[Benchmark] = []
    for argument in asked:
        task, equals, names = argument.partition("=")
        if not task or not equals or not all(names.split(",")):
            raise UserError(f"`{argument}`: must have the form TASK=BENCHMARK[,BENCHMARK], such as math=gsm8k,gsm_plus")
        found.extend(_parse(task, name) for name in names.split(","))
    twice = [b for i, b in enumerate(found) if b in found[:i]]
    if twice:
        raise UserError(f"`{twice[0]}` is given twice")
    return found


def _parse(task: str, name: str) -> Benchmark:
    prefix, colon, rest = name.partition(":")
    for harness in _OTHERS:
        if colon and prefix == harness:
            return Benchmark(task, harness, rest)
    return Benchmark(task, "lm-eval", name)
