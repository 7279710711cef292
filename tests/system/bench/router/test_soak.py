"""The soak for seconds, and its judgement."""

from __future__ import annotations

from sun_sglang.bench.router.soak import run_soak


def test_a_soak_of_seconds() -> None:
    report = run_soak(6.0, clients=4, pause=1.0, seed=1)
    (run,) = report.runs
    assert run.message == ""
    assert report.passed
    client, router = run.details["client_outcomes"], run.details["router_outcomes"]
    assert isinstance(client, dict)
    assert isinstance(router, dict)
    assert router["ok"] >= client["ok"] > 0
