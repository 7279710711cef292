"""The requirements of the stages on a deployment, with a made-up one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sun_sglang.bench.gpu_check.errors import CheckError
from sun_sglang.bench.gpu_check.models.reference import Judgement, Reference
from sun_sglang.bench.gpu_check.stages.cache import check_conversations
from sun_sglang.bench.gpu_check.stages.exactness import check_answers
from sun_sglang.bench.gpu_check.stages.parallel import require_ranks

PROMPT, SECOND = 120, 154


class Accepting(Reference):
    """Accepts every answer, and counts the given number of its tokens as ties."""

    ties = 0

    def judge(self, prompt: Sequence[int], answer: Sequence[int]) -> Judgement:
        return Judgement(len(answer), self.ties, None, 0.1, 0.0)


class HalfTied(Accepting):
    ties = 12


class MadeUp:
    """A deployment whose replies carry the given figures, in turn."""

    def __init__(self, **figures: Sequence[Any]) -> None:
        self.figures = figures
        self.replies = 0

    @asynccontextmanager
    async def client(self) -> AsyncIterator[MadeUp]:
        yield self

    async def prefill_worker(self, task: str) -> str:
        return f"{task}-0"

    async def flush_cache(self, worker: str) -> None:
        pass

    async def generate(self, task: str, prompt: list[int], length: int) -> dict[str, Any]:
        meta: dict[str, Any] = {name: each[self.replies % len(each)] for name, each in self.figures.items()}
        self.replies += 1
        counted = {"prompt_tokens": len(prompt), "completion_tokens": length}
        return {"output_ids": [9] * length, "meta_info": counted | meta}


def reference(kind: type[Reference] = Accepting) -> Reference:
    return kind(Path("a"), Path("base"), "cpu", "bfloat16")


def held(cached: Sequence[int], expected: Sequence[int] | None) -> dict[str, Any]:
    details = [{"device": 0, "host": 0, "decode": hits} if hits else None for hits in cached]
    return asyncio.run(check_conversations(MadeUp(cached_tokens_details=details), "task", reference(), expected))


@pytest.mark.parametrize(
    ("cached", "expected"),
    [((0, PROMPT, SECOND), (PROMPT, SECOND)), ((1, PROMPT, SECOND), (PROMPT, SECOND)), ((0, 64, 128), None)],
)
def test_conversation_that_finds_prompts_alone_passes(cached: Sequence[int], expected: Sequence[int] | None) -> None:
    assert held(cached, expected)["cached_tokens_by_turn"] == list(cached)


@pytest.mark.parametrize(
    ("cached", "expected"),
    [
        ((0, PROMPT + 23, SECOND), (PROMPT, SECOND)),
        ((0, PROMPT + 23, SECOND), None),
        ((0, PROMPT, SECOND + 23), None),
        ((0, 0, SECOND), None),
        ((0, PROMPT, 0), None),
    ],
)
def test_conversation_that_finds_answers_or_nothing_fails(
    cached: Sequence[int], expected: Sequence[int] | None
) -> None:
    with pytest.raises(CheckError, match="cached tokens of three turns"):
        held(cached, expected)


@pytest.mark.parametrize(("ranks", "passes"), [((0, 1), True), ((0,), False), ((0, 1, 2), False)])
def test_each_data_parallel_rank_has_to_answer(ranks: Sequence[int], passes: bool) -> None:
    checked = require_ranks(MadeUp(dp_rank=ranks), 2)
    if passes:
        asyncio.run(checked)
    else:
        with pytest.raises(CheckError, match="of 2 data-parallel ranks"):
            asyncio.run(checked)


def test_answers_with_too_many_ties_fail() -> None:
    asyncio.run(check_answers(MadeUp(), {"a": reference()}, batches=(1, 4)))
    with pytest.raises(CheckError, match="task `a`: 60 of 120 are ties"):
        asyncio.run(check_answers(MadeUp(), {"a": reference(HalfTied)}, batches=(1, 4)))


def test_answer_of_another_length_fails() -> None:
    with pytest.raises(CheckError, match="task `a` counts"):
        asyncio.run(check_answers(MadeUp(completion_tokens=(3,)), {"a": reference()}, batches=(1,)))
