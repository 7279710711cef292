"""Compare answers of the whole stack with transformers: one module prefills, another one decodes."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from sun_sglang.bench.gpu_check.context import Context
from sun_sglang.bench.gpu_check.deployment import Client, Deployment
from sun_sglang.bench.gpu_check.errors import CheckError, require
from sun_sglang.bench.gpu_check.models.reference import AnswerChecker, Reference
from sun_sglang.bench.gpu_check.stage import Stage

_ANSWER = 24
# the largest share of tokens that may be ties: with more, the noise hides the difference between modules
_MOST_TIES = 0.2
# a prefill and a decode worker, and the settings that select which of SGLang's code paths they run
_WORKERS = ("llama-a-0", "llama-base-0")
_SETTINGS = ("disable_overlap_schedule", "attention_backend", "disaggregation_transfer_backend")
# SGLang logs it (`model_executor/model_runner_components/cuda_graph_setup.py`)
_CAPTURED = "CUDA graph end."


def llama(context: Context) -> dict[str, Any]:
    """Check Llama: two tasks in one batch; also require that the comparison rejects a wrong module."""
    references = {f"llama-{name}": context.reference("llama", name) for name in "ab"}
    measured = asyncio.run(check_answers(context.core, references, batches=(1, 4, 16)))
    models = context.models("llama")
    own = Reference(models["base"], models["base"], context.device, context.dtype)
    require_rejection(context, "llama-a", references["llama-b"], "the other task's prefill module")
    require_rejection(context, "llama-a", own, "the decode module on both sides")
    graphs = {worker: _CAPTURED in context.core.log(worker) for worker in _WORKERS}
    settings = asyncio.run(_settings(context.core))
    if context.device == "cuda":
        require(graphs[_WORKERS[1]], "the decode worker captured no CUDA graph")
        for worker, found in settings.items():
            require(found["disable_overlap_schedule"] is False, f"`{worker}` runs without the overlap schedule")
    return measured | {"cuda_graphs": graphs, "settings": settings}


async def _settings(deployment: Deployment) -> dict[str, dict[str, Any]]:
    async with deployment.client() as client:
        found = {worker: await client.server_info(worker) for worker in _WORKERS}
    return {worker: {key: info[key] for key in _SETTINGS} for worker, info in found.items()}


def qwen3(context: Context) -> dict[str, Any]:
    """Check Qwen3."""
    return asyncio.run(check_answers(context.core, {"qwen3-a": context.reference("qwen3", "a")}, batches=(1, 8)))


async def check_answers(
    deployment: Deployment, references: dict[str, Reference], batches: tuple[int, ...], longest: int = 200
) -> dict[str, Any]:
    """Send batches of random prompts of all tasks, and judge every token of the answers.

    Args:
        deployment: a running deployment.
        references: the expected answers, by task.
        batches: sizes of the batches.
        longest: tokens of the longest prompt.

    Raises:
        CheckError: a token is wrong, or too many are ties.
    """
    rng = random.Random(len(references))
    checkers = {task: AnswerChecker(reference) for task, reference in references.items()}
    tasks = list(references)
    async with deployment.client() as client:
        for size in batches:
            asked = [(tasks[i % len(tasks)], random_prompt(rng, longest)) for i in range(size)]
            answers = await asyncio.gather(*(_answer(client, task, prompt) for task, prompt in asked))
            for (task, prompt), answer in zip(asked, answers, strict=True):
                checkers[task].check(prompt, answer, f"task `{task}` in a batch of {size}")
    for task, checker in checkers.items():
        few = checker.ties <= _MOST_TIES * checker.tokens
        require(few, f"task `{task}`: {checker.ties} of {checker.tokens} are ties")
    return {task: checker.counts() for task, checker in checkers.items()}


async def _answer(client: Client, task: str, prompt: list[int]) -> list[int]:
    reply = await client.generate(task, prompt, _ANSWER)
    counted = reply["meta_info"]["prompt_tokens"], reply["meta_info"]["completion_tokens"]
    require(counted == (len(prompt), _ANSWER), f"task `{task}` counts {counted} tokens")
    return list(reply["output_ids"])


def require_rejection(context: Context, task: str, wrong: Reference, what: str) -> None:
    """Require that a wrong reference rejects each of three answers of a task.

    Args:
        context: the run.
        task: name of the task.
        wrong: the reference of other modules.
        what: names those modules in the error.

    Raises:
        CheckError: the wrong reference accepts an answer.
    """
    rng = random.Random(7)

    async def ask() -> list[tuple[list[int], list[int]]]:
        async with context.core.client() as client:
            prompts = [random_prompt(rng, 100) for _ in range(3)]
            return [(prompt, await _answer(client, task, prompt)) for prompt in prompts]

    checker = AnswerChecker(wrong)
    for prompt, answer in asyncio.run(ask()):
        try:
            checker.check(prompt, answer, task)
        except CheckError:
            continue
        raise CheckError(
            f"the comparison accepts an answer of `{task}` for one of {what}: it does not detect a wrong module"
        )


def random_prompt(rng: random.Random, longest: int, shortest: int = 1) -> list[int]:
    """Return random byte tokens.

    Args:
        rng: source of randomness.
        longest: most tokens.
        shortest: fewest tokens.
    """
    return [rng.randrange(5, 261) for _ in range(rng.randint(shortest, longest))]


STAGES = (
    Stage("llama", "exact answers: Llama, two tasks in one batch", llama),
    Stage("qwen3", "exact answers: Qwen3", qwen3),
)
