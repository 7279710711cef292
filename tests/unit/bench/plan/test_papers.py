"""The simulator against the SUN paper, in short runs."""

from __future__ import annotations

from sun_sglang.bench.plan.papers import COSTS, INT4, figure_3, table_4
from sun_sglang.bench.report import RESULTS, read_report
from sun_sglang.sim.cost_model import load_costs


def test_simulated_interactivity_of_figure_3_is_within_five_points() -> None:
    runs = list(figure_3("fitted", load_costs(COSTS), 1024, 120.0))
    assert [run.case["decode_workers"] for run in runs] == [3, 2, 1]
    assert all(abs(run.values["difference"]) < 5 for run in runs), [run.values for run in runs]


def test_simulated_table_4_with_4_bit_weights_is_within_ten_percent() -> None:
    runs = list(table_4("fitted", "llama-3.1-8b-int4", load_costs(COSTS), load_costs(INT4)))
    assert len(runs) == 9
    for run in runs:
        assert abs(run.values["tpot_error"]) < 10
        assert abs(run.values["throughput_error"]) < 10


def test_report_of_table_4_is_within_ten_percent() -> None:
    runs = [run for run in read_report(RESULTS / "plan_papers.json").runs if "table" in run.case]
    assert len(runs) == 36
    assert all(abs(run.values[error]) < 10 for run in runs for error in ("tpot_error", "throughput_error"))
