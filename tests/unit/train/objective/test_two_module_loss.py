from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from sun_sglang.contracts.scheme import SCHEMES, Side
from sun_sglang.demo.tokenizer import VOCAB_SIZE
from sun_sglang.train.data.collate import collate
from sun_sglang.train.data.examples import TokenizedExample
from sun_sglang.train.objective.two_module_loss import TwoModule

NewModel = Callable[[int], Any]
PAD = 257
FIRST_TOKENS: tuple[Side, ...] = ("prefill", "decode")


def some_examples(seed: int, count: int = 5) -> list[TokenizedExample]:
    rng = Random(seed)

    def ids(low: int, high: int) -> tuple[int, ...]:
        return tuple(rng.randrange(VOCAB_SIZE) for _ in range(rng.randint(low, high)))

    return [TokenizedExample(ids(2, 12), ids(1, 9)) for _ in range(count)]


def reference_loss(model: Any, examples: list[TokenizedExample]) -> torch.Tensor:
    """Return the loss by one plain forward for each example, without cache, padding or mask."""
    total, tokens = torch.zeros((), dtype=torch.float64), 0
    for e in examples:
        logits = model(input_ids=torch.tensor([e.prompt + e.answer]), use_cache=False).logits[0]
        start = len(e.prompt) - 1
        total = total + cross_entropy(logits[start:-1], torch.tensor(e.answer), reduction="sum")
        tokens += len(e.answer)
    return total / tokens


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def pair(new_model: NewModel, scheme: str, first_token: Side = "prefill") -> TwoModule:
    prefill, description = new_model(1), SCHEMES[scheme].with_first_token(first_token)
    return TwoModule(prefill, prefill if description.one_module else new_model(2), description).train()


@pytest.mark.parametrize("first_token", FIRST_TOKENS)
@pytest.mark.parametrize("seed", range(3))
def test_one_module_on_both_sides_is_a_plain_forward(new_model: NewModel, seed: int, first_token: Side) -> None:
    examples = some_examples(seed)
    plain, tied = new_model(7), pair(lambda _: new_model(7), "full", first_token)

    expected = reference_loss(plain, examples)
    expected.backward()
    loss = tied(**collate(examples, PAD)).loss
    loss.backward()

    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
    wanted, got = gradients(plain), gradients(tied.prefill)
    assert got.keys() == wanted.keys()
    for name, gradient in wanted.items():
        difference = (got[name] - gradient).norm() / gradient.norm()
        assert difference <= 1e-6, f"{name}: {difference:.1e}"


@pytest.mark.parametrize("scheme", ["prefill_only", "decode_only", "full"])
def test_padding_changes_nothing(new_model: NewModel, scheme: str) -> None:
    examples = some_examples(11)
    padded, alone = pair(new_model, scheme), pair(new_model, scheme)

    loss = padded(**collate(examples, PAD)).loss
    loss.backward()
    tokens = sum(len(e.answer) for e in examples)
    parts = [alone(**collate([e], PAD), num_items_in_batch=tokens).loss for e in examples]
    sum(parts).backward()

    torch.testing.assert_close(loss, sum(parts), rtol=1e-9, atol=0)
    wanted = gradients(alone)
    for name, gradient in gradients(padded).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-7, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


def test_pad_token_value_is_never_seen(new_model: NewModel) -> None:
    examples = some_examples(5)
    module = pair(new_model, "prefill_only")
    assert torch.equal(module(**collate(examples, 0)).loss, module(**collate(examples, 99)).loss)


@pytest.mark.invariant("I22")
def test_prefill_only_trains_all_of_the_prefill_module_and_nothing_else(new_model: NewModel) -> None:
    module = pair(new_model, "prefill_only")
    before = {name: p.clone() for name, p in module.decode.named_parameters()}
    batch = collate(some_examples(3), PAD)
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        module(**batch).loss.backward()
        optimizer.step()

    assert not any(p.requires_grad for p in module.decode.parameters())
    assert not gradients(module.decode)
    assert all(torch.equal(p, before[name]) for name, p in module.decode.named_parameters())
    assert all(g.norm() > 0 for g in gradients(module.prefill).values())


def test_gradients_reach_keys_and_values_from_later_answer_tokens_alone(new_model: NewModel) -> None:
    module = pair(new_model, "prefill_only")
    logits = module(**collate([*some_examples(3, count=1), TokenizedExample((1, 2, 3), (4, 5, 6))], PAD)).logits
    logits[1, 2].square().sum().backward()
    got = gradients(module.prefill)
    for layer in range(3):
        for projection in ("k_proj", "v_proj"):
            assert got[f"model.layers.{layer}.self_attn.{projection}.weight"].norm() > 0
    # the last layer's output feeds only the first token, which this loss does not hold
    assert got.get("model.norm.weight", torch.zeros(1)).norm() == 0


@pytest.mark.invariant("I22")
def test_decode_only_leaves_the_prefill_module_alone(new_model: NewModel) -> None:
    module = pair(new_model, "decode_only", "decode")
    module(**collate(some_examples(3), PAD)).loss.backward()
    assert not gradients(module.prefill)
    assert gradients(module.decode)
    assert module.tuned is module.decode


@pytest.mark.invariant("I21")
def test_the_first_token_comes_from_the_side_that_makes_it(new_model: NewModel) -> None:
    batch = collate([TokenizedExample((1, 2, 3, 4), (5,))], PAD)
    for first_token, side in zip(FIRST_TOKENS, ("prefill", "decode"), strict=True):
        module = pair(new_model, "prefill_only", first_token)
        before = module(**batch).logits
        with torch.no_grad():
            getattr(module, side).model.norm.weight.mul_(2.0)
        assert not torch.allclose(module(**batch).logits, before)
        with torch.no_grad():
            getattr(module, side).model.norm.weight.div_(2.0)
            other = module.decode if side == "prefill" else module.prefill
            other.model.norm.weight.mul_(2.0)
        torch.testing.assert_close(module(**batch).logits, before)


def test_gradient_checkpointing_is_refused_and_not_trained_through(new_model: NewModel) -> None:
    module = pair(new_model, "prefill_only")
    module.prefill.gradient_checkpointing_enable()
    with pytest.raises(AssertionError, match="gradient checkpointing"):
        module(**collate(some_examples(3), PAD))


def test_full_means_one_module(new_model: NewModel) -> None:
    with pytest.raises(AssertionError, match="one object"):
        TwoModule(new_model(1), new_model(1), SCHEMES["full"])
