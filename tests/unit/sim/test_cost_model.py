from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.sim.cost_model import CostError, CostModel, load_costs

COSTS = Path(__file__).parents[3] / "configs" / "costs"
# Table 4 of the SUN paper, LLaMA3.1-8B, Full-FT: (ISL, concurrency) to ms
TPOT = {
    (1024, 1): 13.8,
    (1024, 4): 15.1,
    (1024, 16): 17.7,
    (2048, 1): 15.1,
    (2048, 4): 15.6,
    (2048, 16): 19.5,
    (4096, 1): 14.9,
    (4096, 4): 16.9,
    (4096, 16): 24.6,
}
TTFT = {1024: 99.1, 2048: 176.5, 4096: 317.3}


@pytest.mark.parametrize("file", sorted(COSTS.glob("*.yaml")), ids=lambda f: f.stem)
def test_every_cost_file_loads(file: Path) -> None:
    assert load_costs(file).kv_tokens > 0


def test_zero_costs_take_no_time() -> None:
    costs = load_costs(COSTS / "zero.yaml")
    assert (
        costs.decode_seconds(64, 1 << 20) == costs.prefill_seconds([4096, 10]) == costs.transfer_seconds(1 << 30) == 0
    )


def test_the_fitted_file_gives_the_papers_figures() -> None:
    costs = load_costs(COSTS / "llama-3.1-8b-a100.yaml")
    for (prompt, batch), paper in TPOT.items():
        assert 1000 * costs.decode_seconds(batch, batch * (prompt + 512)) == pytest.approx(paper, abs=0.62)
    for prompt, paper in TTFT.items():
        assert 1000 * costs.prefill_seconds([prompt]) == pytest.approx(paper, abs=3.1)


@given(st.integers(1, 64), st.integers(1, 10**6), st.floats(1, 100))
def test_a_slowed_worker_takes_as_many_times_as_long(batch: int, tokens: int, factor: float) -> None:
    costs = load_costs(COSTS / "llama-3.1-8b-a100.yaml")
    slow = costs.slowed(factor)
    assert slow.decode_seconds(batch, tokens) == pytest.approx(factor * costs.decode_seconds(batch, tokens))
    assert slow.prefill_seconds([tokens]) == pytest.approx(factor * costs.prefill_seconds([tokens]))
    assert slow.transfer_seconds(tokens) == pytest.approx(factor * costs.transfer_seconds(tokens))
    assert slow.kv_tokens == costs.kv_tokens


def test_an_empty_batch_takes_no_time() -> None:
    costs = CostModel(decode_step=1, prefill=1)
    assert costs.decode_seconds(0, 0) == costs.prefill_seconds([]) == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("decode_step: -1", "decode_step: Input should be greater than or equal to 0"),
        ("steps: 1", "steps: unknown key; known keys: `"),
        ("kv_tokens: 0", "kv_tokens: Input should be greater than or equal to 1"),
        ("[", "not valid YAML"),
    ],
)
def test_a_wrong_cost_file_is_one_clear_error(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "costs.yaml"
    file.write_text(text)
    with pytest.raises(CostError) as caught:
        load_costs(file)
    assert str(caught.value).startswith(str(file))
    assert said in str(caught.value)


def test_a_cost_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CostError, match="cannot be read"):
        load_costs(tmp_path / "none.yaml")
