from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch

from sun_sglang.quantize.compress.measure import compare, record
from sun_sglang.train.checkpoint import load_model

SAMPLES = [tuple(range(3, 90)), tuple(range(40, 60))]


def ignore(_done: int, _total: int) -> None:
    pass


def test_equal_models_have_no_error(source: Path) -> None:
    model = load_model(source)
    found = compare(model, record(model, SAMPLES, ignore), ignore)
    # of the longer sample at most 64 positions count
    assert found.positions == 64 + 20
    assert (found.layers, found.logits, found.divergence, found.agreement) == ((0.0, 0.0), 0.0, 0.0, 1.0)


def test_layer_that_differs_has_its_error_alone(source: Path) -> None:
    model = load_model(source)
    reference = record(model, SAMPLES, ignore)
    changed = copy.deepcopy(model)
    with torch.no_grad():
        # the layer adds nothing to the hidden states: it is wrong by all that it should add
        changed.model.layers[0].self_attn.o_proj.weight.zero_()
        changed.model.layers[0].mlp.down_proj.weight.zero_()
    found = compare(changed, reference, ignore)
    assert found.layers == pytest.approx((1.0, 0.0))
    assert found.logits > 0.1
    assert found.agreement < 1


def test_divergence_is_mean_over_compared_positions(source: Path) -> None:
    model = load_model(source)
    reference = record(model, SAMPLES[1:], ignore)
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.model.norm.weight.mul_(0.5)
    found = compare(changed, reference, ignore)
    ids = torch.tensor([SAMPLES[1]])
    with torch.inference_mode():
        right, wrong = (m(ids).logits[0].log_softmax(-1) for m in (model, changed))
    expected = torch.nn.functional.kl_div(wrong, right, log_target=True, reduction="batchmean")
    assert found.divergence == pytest.approx(float(expected), rel=1e-4)
    assert found.logits == pytest.approx(0.5, rel=1e-4)


def test_values_that_are_not_finite_are_refused(source: Path) -> None:
    model = load_model(source)
    reference = record(model, SAMPLES[1:], ignore)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.fill_(math.inf)
    with pytest.raises(ArithmeticError, match="not finite"):
        compare(model, reference, ignore)
