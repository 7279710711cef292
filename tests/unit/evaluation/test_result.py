import pytest
from rich.console import Console

from sun_sglang.errors import UserError
from sun_sglang.evaluation.benchmark import Benchmark, parse_benchmarks
from sun_sglang.evaluation.intervals import normal, wilson
from sun_sglang.evaluation.result import BenchmarkResult, Score, proportion, score
from sun_sglang.evaluation.table import render


def test_wilsons_interval_is_the_textbooks() -> None:
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_wilsons_interval_stays_within_bounds() -> None:
    for total in (1, 2, 7, 300):
        for correct in range(total + 1):
            low, high = wilson(correct, total)
            assert 0 <= low <= correct / total <= high <= 1
            assert low == pytest.approx(1 - wilson(total - correct, total).high)


def test_right_and_wrong_are_counted() -> None:
    found = score("exact_match", [1.0, 0.0, 1.0, 1.0], 0.75, 0.25)
    assert (found.correct, found.value, found.interval) == (3, 0.75, "wilson")
    assert found.stderr == pytest.approx(0.25)
    assert (found.low, found.high) == wilson(3, 4)


def test_other_values_get_the_interval_of_a_mean() -> None:
    found = score("f1", [0.5, 0.25], 0.375, 0.125)
    assert (found.correct, found.interval) == (None, "normal")
    assert (found.low, found.high) == normal(0.375, 0.125) == pytest.approx((0.130, 0.620), abs=1e-3)
    assert score("f1", [0.5, 0.25], 0.375, None).interval == "none"


def test_one_question_has_no_standard_error() -> None:
    assert proportion("exact_match", 1, 1).stderr is None


def test_pairs_are_read_in_order() -> None:
    assert parse_benchmarks(
        ["math=gsm8k,./own.yaml", "code=evalplus:humaneval", "tool=bfcl:Qwen/Qwen3-8B-FC:live"]
    ) == [
        Benchmark("math", "lm-eval", "gsm8k"),
        Benchmark("math", "lm-eval", "./own.yaml"),
        Benchmark("code", "evalplus", "humaneval"),
        Benchmark("tool", "bfcl", "Qwen/Qwen3-8B-FC:live"),
    ]


@pytest.mark.parametrize("argument", ["gsm8k", "=gsm8k", "math=", "math=gsm8k,,gsm_plus"])
def test_what_is_no_pair_is_named(argument: str) -> None:
    with pytest.raises(UserError, match=f"`{argument}`: must have the form TASK=BENCHMARK"):
        parse_benchmarks([argument])


def test_a_pair_may_be_there_once() -> None:
    with pytest.raises(UserError, match="`math=gsm8k` is given twice"):
        parse_benchmarks(["math=gsm8k", "math=gsm_plus,gsm8k"])


def shown(*scores: Score) -> str:
    result = BenchmarkResult(
        task="ma[th]",
        harness="lm-eval",
        benchmark="gsm8k",
        version="3.0",
        few_shot=5,
        questions=300,
        seconds=1.5,
        scores=scores,
    )
    console = Console(width=120, no_color=True)
    with console.capture() as capture:
        console.print(render([result]))
    return capture.get()


def test_the_table_shows_counts_percent_and_interval() -> None:
    out = shown(proportion("exact_match,strict-match", 293, 300))
    for part in ("ma[th]", "gsm8k", "exact_match,strict-match", "293 of 300", "97.7 %", "95.3 to 98.9"):
        assert part in out


def test_the_table_shows_what_is_no_proportion_as_it_is() -> None:
    out = shown(score("f1", [0.5, 0.25], 0.375, 0.125), score("bleu", [], 21.5, None))
    for part in ("300 asked", "0.375", "0.13 to 0.62", "21.5", "none"):
        assert part in out
