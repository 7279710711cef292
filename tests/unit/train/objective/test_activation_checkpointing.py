"""Gradients of every scheme, with and without recomputed layers, against two plain forwards with explicit caches."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import DynamicCache, Gemma2Config, Gemma2ForCausalLM, MistralConfig

from sun_sglang.contracts.scheme import SCHEMES, Side
from sun_sglang.errors import RecipeError
from sun_sglang.train.data.collate import collate
from sun_sglang.train.data.examples import TokenizedExample
from sun_sglang.train.objective.activation_checkpointing import recompute_layers, require_full_attention
from sun_sglang.train.objective.two_module_loss import TwoModule
from tests.support.training import SIZES

NewModel = Callable[[int], Any]
PAIRS: list[tuple[str, Side]] = [
    ("prefill_only", "prefill"),
    ("prefill_only", "decode"),
    ("decode_only", "prefill"),
    ("decode_only", "decode"),
    ("full", "prefill"),
]


def examples(seed: int) -> list[TokenizedExample]:
    rng = Random(seed)

    def ids(low: int, high: int) -> tuple[int, ...]:
        return tuple(rng.randrange(320) for _ in range(rng.randint(low, high)))

    # an answer of one token, which the prefill side may make alone, among them
    return [*(TokenizedExample(ids(2, 14), ids(2, 10)) for _ in range(4)), TokenizedExample(ids(3, 3), ids(1, 1))]


def modules(new_model: NewModel, scheme: str, first_token: Side) -> TwoModule:
    prefill, description = new_model(1), SCHEMES[scheme].with_first_token(first_token)
    return TwoModule(prefill, prefill if description.one_module else new_model(2), description).train()


def reference(module: TwoModule, batch: list[TokenizedExample]) -> torch.Tensor:
    """Return the loss, one example at a time, without padding and mask: answers read the prompt's keys and values."""
    total, tokens = torch.zeros((), dtype=torch.float64), 0
    for e in batch:
        handed = len(e.prompt) - (module.scheme.first_token == "decode")
        ids = torch.tensor([e.prompt + e.answer])
        prompt = module.prefill(input_ids=ids[:, :handed], use_cache=True)
        cache = DynamicCache()
        for layer, kept in enumerate(prompt.past_key_values.layers):
            cache.update(kept.keys, kept.values, layer)
        logits = [prompt.logits[0, -1:]] if module.scheme.first_token == "prefill" else []
        if ids.shape[1] - 1 > handed:
            where = torch.arange(handed, ids.shape[1] - 1)[None]
            rest = module.decode(input_ids=ids[:, handed:-1], position_ids=where, past_key_values=cache, use_cache=True)
            logits.append(rest.logits[0])
        total = total + cross_entropy(torch.cat(logits), torch.tensor(e.answer), reduction="sum")
        tokens += len(e.answer)
    return total / tokens


def gradients(module: TwoModule) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None and p.grad.norm() > 0}


def assert_trains_like(
    plain: TwoModule,
    module: TwoModule,
    batch: list[TokenizedExample],
    inputs: dict[str, torch.Tensor],
    *,
    recomputed: bool,
) -> None:
    """Assert that `module` has the loss and gradients of two plain forwards, and that frozen weights stay."""
    if recomputed:
        for model in {module.prefill, module.decode}:
            recompute_layers(model)
    frozen = {name: p.clone() for name, p in module.named_parameters() if not p.requires_grad}

    expected = reference(plain, batch)
    expected.backward()
    loss = module(**inputs).loss
    loss.backward()

    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
    wanted, got = gradients(plain), gradients(module)
    assert got.keys() == wanted.keys()
    for name, gradient in wanted.items():
        difference = (got[name] - gradient).norm() / gradient.norm()
        assert difference <= 1e-6, f"{name}: {difference:.1e}"
    torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=0.1).step()
    assert all(torch.equal(dict(module.named_parameters())[name], p) for name, p in frozen.items())


@pytest.mark.parametrize("recomputed", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize(("scheme", "first_token"), PAIRS)
def test_gradients_are_those_of_two_plain_forwards(
    new_model: NewModel, scheme: str, first_token: Side, recomputed: bool
) -> None:
    batch = examples(5)
    plain, module = modules(new_model, scheme, first_token), modules(new_model, scheme, first_token)
    assert_trains_like(plain, module, batch, collate(batch, 257), recomputed=recomputed)


def test_recomputed_layers_keep_less_for_the_backward_pass(new_model: NewModel) -> None:
    def kept(recomputed: bool) -> int:
        module = modules(new_model, "prefill_only", "prefill")
        if recomputed:
            recompute_layers(module.prefill)
            recompute_layers(module.decode)
        sizes: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            module(**collate([TokenizedExample((1,) * 200, (2,) * 200)], 257))
        return sum(sizes.values())

    assert kept(True) < 0.6 * kept(False)


def test_layers_that_forget_are_refused() -> None:
    model = Gemma2ForCausalLM(Gemma2Config(**SIZES))
    with pytest.raises(RecipeError, match=r"gradient_checkpointing: not supported for layers of .*sliding_attention"):
        recompute_layers(model)
    with pytest.raises(RecipeError, match="packing_tokens: not supported for layers of sliding_attention"):
        require_full_attention(MistralConfig(sliding_window=64), "packing_tokens")


@pytest.mark.parametrize(("scheme", "first_token"), PAIRS)
def test_it_is_known_which_scheme_leaves_parameters_without_a_gradient(
    new_model: NewModel, scheme: str, first_token: Side
) -> None:
    module = modules(new_model, scheme, first_token)
    module(**collate(examples(5), 257)).loss.backward()
    unused = [n for n, p in module.named_parameters() if p.requires_grad and (p.grad is None or p.grad.norm() == 0)]
    # decode_only may have used all: its own tokens come after the first
    assert not unused or module.leaves_parameters_unused
    if (scheme, first_token) == ("prefill_only", "decode"):
        assert unused
