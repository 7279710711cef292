"""Packed rows: the examples that share one, and results equal to those of separate examples."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch

from sun_sglang.contracts.scheme import Side
from sun_sglang.train.data.collate import collate
from sun_sglang.train.data.examples import TokenizedExample
from sun_sglang.train.data.packing import PackedRows, Row, collate_row
from sun_sglang.train.objective.packed_attention import PACKED
from sun_sglang.train.objective.two_module_loss import TwoModule
from tests.unit.train.objective.test_activation_checkpointing import (
    PAIRS,
    assert_trains_like,
    examples,
    modules,
    reference,
)

NewModel = Callable[[int], Any]


def packed(module: TwoModule) -> TwoModule:
    for model in {module.prefill, module.decode}:
        model.set_attn_implementation(PACKED)
    return module


@pytest.mark.parametrize("recomputed", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize(("scheme", "first_token"), PAIRS)
def test_gradients_of_a_row_are_those_of_two_plain_forwards_an_example(
    new_model: NewModel, scheme: str, first_token: Side, recomputed: bool
) -> None:
    batch = examples(5)
    plain, module = modules(new_model, scheme, first_token), packed(modules(new_model, scheme, first_token))
    assert_trains_like(plain, module, batch, collate_row(Row(tuple(batch))), recomputed=recomputed)


@pytest.mark.parametrize(("scheme", "first_token"), PAIRS)
def test_a_row_loses_what_its_examples_lose_alone(new_model: NewModel, scheme: str, first_token: Side) -> None:
    batch = [*examples(1), *examples(2)]
    module = packed(modules(new_model, scheme, first_token))
    tokens = sum(len(e.answer) for e in batch)
    alone = sum(module(**collate([e], 257), num_items_in_batch=tokens).loss for e in batch)
    for row in (batch, batch[::-1]):
        torch.testing.assert_close(module(**collate_row(Row(tuple(row)))).loss, alone, rtol=1e-9, atol=0)


def test_a_neighbour_in_the_row_is_never_seen(new_model: NewModel) -> None:
    module = packed(modules(new_model, "prefill_only", "prefill"))
    kept, other = TokenizedExample((1, 2, 3), (4, 5, 6)), TokenizedExample((9,) * 7, (9,) * 5)
    length = len(kept.answer) + len(other.answer)
    only = module(**collate([kept], 257), num_items_in_batch=length).loss
    both = (
        module(**collate_row(Row((other, kept)))).loss - module(**collate([other], 257), num_items_in_batch=length).loss
    )
    torch.testing.assert_close(both, only, rtol=1e-9, atol=0)


def test_a_module_with_other_attention_is_not_trained_through(new_model: NewModel) -> None:
    module = modules(new_model, "prefill_only", "prefill")
    with pytest.raises(AssertionError, match="0 of 3 layers ran sun_packed attention"):
        module(**collate_row(Row(tuple(examples(1)))))


def test_answers_of_one_token_need_no_decode_module(new_model: NewModel) -> None:
    module = packed(modules(new_model, "full", "prefill"))
    batch = [TokenizedExample((1, 2, 3), (4,)), TokenizedExample((5,), (6,))]
    torch.testing.assert_close(
        module(**collate_row(Row(tuple(batch)))).loss, reference(module, batch), rtol=1e-9, atol=0
    )


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("count", [96, 101, 7])
def test_rows_hold_a_step_each_and_keep_to_their_length(processes: int, count: int) -> None:
    rng = Random(count)
    lengths, batch, tokens = [rng.randint(1, 60) for _ in range(count)], 16, 100
    rows = PackedRows(lengths, batch, tokens, processes, seed=1, epochs=2)
    orders = []
    for epoch in range(2):
        rows.set_epoch(epoch)
        found = list(rows)
        orders.append(found)
        assert len(found) == len(rows)
        assert sorted(i for row in found for i in row) == list(range(count))
        assert all(row and sum(lengths[i] for i in row) <= tokens for row in found)
        assert rows.per_step % processes == 0
        for step in range(count // batch):
            part = found[step * rows.per_step : (step + 1) * rows.per_step]
            assert sum(map(len, part)) == batch, "as many examples a step as without packing"
    # a single step is spread in one way
    assert (orders[0] != orders[1]) == (count > batch), "every epoch has its own order"
    rows.set_epoch(0)
    assert orders[0] == list(rows), "which depends on nothing else"


def test_rows_are_full() -> None:
    rng = Random(0)
    lengths = [rng.randint(10, 60) for _ in range(512)]
    rows = PackedRows(lengths, 128, 512, 1, seed=0)
    assert len(rows) * 512 < 1.25 * sum(lengths)
