from __future__ import annotations

from pathlib import Path

import pytest

from sun_sglang.bench.load.errors import BenchError
from sun_sglang.bench.load.workload.settings import workload_settings
from sun_sglang.bench.serving.report.study.load import read_study, study_of
from sun_sglang.bench.serving.report.study.point import Point, describe, point_of, varying
from sun_sglang.bench.serving.report.study.study import Source
from sun_sglang.bench.serving.result import write_result
from tests.support.bench_results import result

THROUGHPUT = "output_token_throughput"


def test_point_has_the_load_and_neither_seeds_nor_the_window() -> None:
    load = {"tasks": ("a",), "zipf": 1.5, "concurrency": 8}
    points = [
        point_of(workload_settings(**load)),
        point_of(workload_settings(**load, random_seed=3, prompt_seed=4, warmup_duration=1, benchmark_duration=2)),
    ]
    assert points[0] == points[1] == Point("requests", 1.5, None, 8, "512", "128")
    assert describe(points[0]) == "Zipf 1.5, 8 requests in flight, ISL 512, OSL 128"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"request_rate": 2, "concurrency": 40, "workload": "react"}, "react agents, Zipf 0, 2 sessions/s, at most 40"),
        ({"input_file": ("/home/me/t.csv",)}, "Zipf 0, input file t.csv"),
        ({"input_file": ("a\u202eb",)}, "input file a\\u202eb"),
        ({"request_rate": 1, "hot_shift": 5.0}, "ISL 512, OSL 128, hot shift 5"),
        ({"request_rate": 1, "arrival_pattern": "constant"}, "arrival pattern constant"),
    ],
)
def test_point_is_described_with_all_that_makes_its_load(settings: dict[str, object], text: str) -> None:
    assert text in describe(point_of(workload_settings(tasks=("a",), **settings)))


def test_points_of_a_grid_vary_in_its_axes() -> None:
    study = study_of([Source("a", result(zipf=(0, 1.5), concurrency=(2, 8)))])
    assert varying(study.points) == {"zipf", "concurrency"}
    assert [describe(point, {"zipf"}) for point in study.points] == ["Zipf 0", "Zipf 0", "Zipf 1.5", "Zipf 1.5"]


def test_study_of_one_file_has_its_numbers_and_ratios() -> None:
    content = result(zipf=(1.5,), concurrency=(8,))
    study = study_of([Source("a", content)])
    (point,), (sun, isolated) = study.points, study.systems
    found = content.points[0]
    assert study.number(sun, point, THROUGHPUT) == found.systems["sun"].summary[THROUGHPUT]
    assert study.ratio(isolated, point, THROUGHPUT) == found.ratios["isolated"][THROUGHPUT]
    assert study.ratio(sun, point, THROUGHPUT) is None
    assert study.number(sun, point, "goodput") is None


def test_study_of_two_files_joins_a_system_that_they_measured_at_different_points() -> None:
    files = [Source("a", result(zipf=(0,), concurrency=(8,))), Source("b", result(zipf=(1.5,), concurrency=(8,)))]
    study = study_of(files)
    assert [system.label for system in study.systems] == ["sun", "isolated"]
    assert len(study.points) == 2


def test_study_of_two_files_tells_apart_a_system_that_both_measured_at_one_point() -> None:
    files = [Source(name, result(("router",), zipf=(0,), concurrency=(8,))) for name in ("before", "after")]
    study = study_of(files)
    assert [system.label for system in study.systems] == ["router (before)", "router (after)"]
    ratio = study.ratio(study.systems[1], study.points[0], THROUGHPUT)
    assert ratio is not None
    assert ratio.value == 1


def test_study_of_files_that_name_systems_in_another_order_compares_with_its_own_first() -> None:
    files = [
        Source("a", result(("sun", "isolated"), zipf=(0,), concurrency=(8,))),
        Source("b", result(("isolated", "sun"), zipf=(1.5,), concurrency=(8,))),
    ]
    study = study_of(files)
    for point in study.points:
        ratio = study.ratio(study.systems[1], point, THROUGHPUT)
        assert ratio is not None
        assert ratio.value > 1


def test_headline_is_the_middle_of_the_points_with_the_most_repetitions() -> None:
    grid = Source("grid", result(zipf=(0, 1.5, 3), concurrency=(32, 2, 8), repetitions=2))
    middle = study_of([grid]).headline
    assert (middle.zipf, middle.concurrency) == (1.5, 8)
    more = Source("more", result(zipf=(4,), concurrency=(8,), repetitions=3))
    assert study_of([grid, more]).headline.zipf == 4


def test_headline_of_an_even_number_of_points_is_the_upper_middle() -> None:
    content = result(("sun",), zipf=(0,), request_rate=(1.0, 2.0, 4.0, 8.0), repetitions=1)
    assert study_of([Source("a", content)]).headline.request_rate == 4


def test_headline_counts_the_repetitions_of_the_system_with_the_fewest() -> None:
    alone = Source("alone", result(("sun",), zipf=(3,), concurrency=(8,), repetitions=4))
    both = Source("both", result(zipf=(0,), concurrency=(8,), repetitions=1))
    assert study_of([alone, both]).headline.zipf == 0


def test_study_from_files_names_those_of_one_name_apart(tmp_path: Path) -> None:
    files = [tmp_path / folder / "run.json" for folder in ("a", "b")]
    for file in files:
        file.parent.mkdir()
        write_result(result(("router",), zipf=(0,), concurrency=(8,), repetitions=1), file)
    assert [source.name for source in read_study(files).sources] == ["run #1", "run #2"]


@pytest.mark.parametrize(
    ("content", "message"), [(None, "No such file"), ("{}", ""), ("[1", ""), ('{"format": "sun-bench-1"}', "format")]
)
def test_study_from_a_file_that_is_no_result_names_it(tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "run.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(BenchError, match=r"run\.json: .*" + message):
        read_study([file])


def test_study_of_a_file_whose_point_has_an_unknown_system_names_it() -> None:
    content = result(zipf=(0,), concurrency=(8,), repetitions=1)
    with pytest.raises(BenchError, match="a: a point has the system `isolated`, which `systems` does not list"):
        study_of([Source("a", content.model_copy(update={"systems": content.systems[:1]}))])


def test_study_leaves_out_a_number_that_is_not_finite() -> None:
    content = result(zipf=(0,), concurrency=(8,), repetitions=1)
    found = content.points[0].systems["sun"].summary
    found[THROUGHPUT] = found[THROUGHPUT].model_copy(update={"value": float("inf")})
    study = study_of([Source("a", content)])
    assert study.number(study.systems[0], study.points[0], THROUGHPUT) is None


def test_study_shows_long_names_of_systems_short_and_apart() -> None:
    names = ("x" * 100, "x" * 101, "right\u202eleft\n")
    study = study_of([Source("a", result(names, zipf=(0,), concurrency=(8,), repetitions=1))])
    assert [system.label for system in study.systems] == [
        "x" * 40 + "…" + "x" * 19,
        "x" * 40 + "…" + "x" * 19 + " #2",
        "right\\u202eleft\\n",
    ]
    assert all(study.at(system, study.points[0]) for system in study.systems)
