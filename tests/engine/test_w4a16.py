"""A decode worker with 4-bit weights: its logits and greedy answers are those of the dense weights, to bfloat16."""

from __future__ import annotations

import random
import statistics
from pathlib import Path

import httpx
import pytest

from sun_sglang.cpu import has_gpu
from tests.engine.conftest import Deployment, Reference, gather, generate, some_tokens
from tests.engine.four_bit import dense_copy
from tests.engine.precision import FOUR_BIT, FOUR_BIT_MEAN
from tests.engine.test_api import reference_logprobs
from tests.support.sglang_questions import SGLangQuestions

TASK = "four-bit"


async def test_batch_with_a_four_bit_decoder_answers_as_its_dense_weights(
    client: httpx.AsyncClient, task_references: dict[str, Reference]
) -> None:
    reference, rng = task_references[TASK], random.Random(16)
    prompts = [some_tokens(1600 + i, rng.randint(2, 90)) for i in range(12)]
    replies = await gather(*(generate(client, TASK, prompt, 24) for prompt in prompts))
    for prompt, reply in zip(prompts, replies, strict=True):
        reference.check(prompt, reply["output_ids"])
    reference.require_few_ties()


async def test_log_probabilities_of_a_four_bit_decoder_are_those_of_its_dense_weights(
    client: httpx.AsyncClient, models: Path
) -> None:
    right, wrong = list[float](), list[float]()
    for i in range(4):
        prompt = some_tokens(1650 + i, 20 + 9 * i)
        reply = await generate(client, TASK, prompt, 16, return_logprob=True)
        answer = reply["output_ids"]
        given = [value for value, *_ in reply["meta_info"]["output_token_logprobs"]]
        for decoder, differences in ((dense_copy(models / "llama-four-bit"), right), (models / "llama-base", wrong)):
            _, rows = reference_logprobs(models / "llama-a", decoder, prompt, answer)
            expected = [float(row[token]) for row, token in zip(rows, answer, strict=True)]
            differences += [abs(one - other) for one, other in zip(given, expected, strict=True)]
    assert max(right) < FOUR_BIT.tie
    assert statistics.fmean(right) < FOUR_BIT_MEAN
    assert statistics.fmean(wrong) > 5 * FOUR_BIT_MEAN, "the weights in full precision give other values"


@pytest.mark.skipif(has_gpu(), reason="the hooks are inactive there")
def test_worker_says_how_each_layer_is_multiplied(deployment: Deployment) -> None:
    log = (deployment.run_dir / "logs" / "four-bit-0.log").read_text()
    assert "W4A16 on the CPU: 256 x 128 weights, groups of 32: torch's 4-bit kernel below" in log
    assert "W4A16 on the CPU: 128 x 384 weights are kept dense" in log
    assert "integers of 4 bits, not of 8" in log


@pytest.mark.skipif(has_gpu(), reason="the hooks are inactive there")
def test_scheme_of_other_weights_stays_refused_on_a_cpu(ask_sglang: SGLangQuestions) -> None:
    accept = "sun_sglang.patches.weights.schemes:accept_w4a16"
    assert ask_sglang(accept, None, 80) is True
    assert ask_sglang(accept, None, 89, False) is False
    with pytest.raises(AssertionError, match=r"needs a GPU of compute capability 8\.9"):
        ask_sglang(accept, None, 89)
