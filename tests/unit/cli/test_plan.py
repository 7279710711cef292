"""`sun plan`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sun_sglang.bench.report import RESULTS
from sun_sglang.bench.serving.result import read_result, write_result
from sun_sglang.cli.main import main
from tests.unit.cli.conftest import Sun

CONFIGS = Path(__file__).parents[3] / "configs"
TOPOLOGY = str(CONFIGS / "emulated" / "sun-3d.yaml")
INT4 = str(CONFIGS / "costs" / "llama-3.1-8b-a100-int4.yaml")
SLO = ("--slo", "time_to_first_token:500 inter_token_latency:20")
LOAD = ("--request-rate", "14.6", "--isl", "1024", "--osl", "128", "--benchmark-duration", "40", *SLO)


@pytest.fixture
def plan(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Sun:
    """Run `sun plan`; returns its exit code, standard output and standard error."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(("plan", *arguments))
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return run


def test_plan_of_a_rate_names_the_fewest_workers_of_each_system(plan: Sun, tmp_path: Path) -> None:
    figure = tmp_path / "plan.svg"
    options = ("--warmup-duration", "5", "--quantized-costs", INT4, "--plot", str(figure), "--json")
    code, out, err = plan(TOPOLOGY, *LOAD, *options)
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert [system["system"] for system in found["systems"]] == ["sun", "qsun", "isolated", "prefillshare"]
    sun, qsun, isolated, prefillshare = found["systems"]
    assert qsun["decode_workers"] <= sun["decode_workers"] < isolated["decode_workers"]
    assert prefillshare["prefill_workers"] < sun["prefill_workers"]
    assert sun["breaks_first"] == "decode steps"
    assert all(system["within_slo"] >= 0.95 for system in found["systems"])
    assert "<svg" in figure.read_text()


def test_plan_without_costs_of_4_bit_weights_leaves_qsun_out_and_says_so(plan: Sun) -> None:
    code, out, _ = plan(TOPOLOGY, *LOAD, "--systems", "sun,qsun,isolated,prefillshare", "--max-workers", "8")
    assert code == 0
    assert "`qsun` is left out: give --quantized-costs" in out
    assert "Step times: llama-3.1-8b-a100.yaml" in out


def test_plan_of_a_trace_replays_all_of_it(plan: Sun, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    rows = "".join(f"2023-11-16 18:{i // 60:02d}:{i % 60:02d},900,40\n" for i in range(90))
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows)
    code, out, _ = plan(TOPOLOGY, "--trace", str(trace), *SLO, "--systems", "sun", "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["requests"], found["seconds"]) == (90, 89.0)
    assert found["systems"][0]["requests"] == 90


BAD_TRACE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:00:00,900,40\n2023-11-16 18:00:01,many,40\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((TOPOLOGY, *SLO), "error: no load: give --request-rate, or a trace with --trace"),
        (("missing.yaml", *LOAD), "error: missing.yaml: cannot be read"),
        ((TOPOLOGY, *LOAD, "--isl", "uniform:9:3"), "error: --isl: "),
        ((TOPOLOGY, *LOAD, "--systems", "moon"), "error: --systems: unknown system `moon`; known: `sun`"),
        ((TOPOLOGY, *LOAD, "--systems", "qsun"), "error: --systems: `qsun` needs --quantized-costs"),
        ((TOPOLOGY, *LOAD, "--systems", ""), "error: --systems: name at least one"),
        ((TOPOLOGY, *LOAD, "--goodput-ratio", "2"), "error: --goodput-ratio: 2 is not above 0 and at most 1"),
        ((TOPOLOGY, *LOAD, "--gpu", "v100"), "error: --gpu: unknown GPU `v100`; known: "),
        ((TOPOLOGY, *LOAD, "--gpu", "h100"), "error: --model: unknown model `base`; known: "),
        ((TOPOLOGY, *LOAD, "--model", "x"), "error: --model needs --gpu"),
        ((TOPOLOGY, *LOAD, "--costs", "none.yaml"), "error: none.yaml: cannot be read"),
        (
            (TOPOLOGY, *LOAD, "--costs", str(CONFIGS / "costs" / "zero.yaml")),
            "error: zero.yaml: a decode step takes no",
        ),
        ((TOPOLOGY, *LOAD, "--calibrate", TOPOLOGY), f"error: --calibrate: {TOPOLOGY}: "),
        (
            (TOPOLOGY, *LOAD, "--plot", "/nowhere/x.svg"),
            "error: --plot: /nowhere/x.svg cannot be written: /nowhere is no",
        ),
        ((TOPOLOGY, *LOAD, "--plot", "x.foo"), "error: --plot: x.foo has no ending of a figure; known: "),
        (
            (TOPOLOGY, *LOAD, "--calibrate", str(RESULTS / "serving" / "adapters_8.json")),
            "points of 3 systems; measure one point of one system",
        ),
        ((TOPOLOGY, "--request-rate", "1", "--slo", "speed:5"), "error: --slo: unknown metric `speed`"),
        (
            (TOPOLOGY, "--request-rate", "1", "--slo", "output_token_throughput_per_user:5"),
            "error: --slo: `output_token_throughput_per_user` cannot be planned for",
        ),
        (
            (TOPOLOGY, "--request-rate", "1", "--slo", "inter_token_latency:5"),
            "error: --slo: no number of workers of `sun` meets it for 95 % of the requests: a decode step with one "
            "request alone takes 14.3 ms",
        ),
        ((TOPOLOGY, "--trace", "TRACE", *SLO), ":3: ContextTokens `many` is not a whole number"),
    ],
)
def test_plan_of_bad_input_fails_with_one_error(
    plan: Sun, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(BAD_TRACE)
    code, out, err = plan(*(str(trace) if argument == "TRACE" else argument for argument in arguments))
    assert (code, out) == (1, "")
    assert message in err
    assert err.count("\n") == 1


def test_plan_with_a_measured_point_has_steps_as_long_as_measured(plan: Sun, tmp_path: Path) -> None:
    whole = read_result(RESULTS / "serving" / "adapters_8.json")
    point, system = whole.points[0], whole.systems[0]
    alone = point.model_copy(update={"systems": {system.name: point.systems[system.name]}, "ratios": {}})
    write_result(whole.model_copy(update={"systems": (system,), "points": (alone,)}), file := tmp_path / "run.json")
    summary = point.systems[system.name].summary
    tpot = summary["inter_token_latency.avg"].value
    slow = ("--request-rate", "0.1", "--isl", "32", "--osl", "64", "--slo", f"inter_token_latency:{20 * tpot:g}")
    code, out, err = plan(TOPOLOGY, *slow, "--systems", "sun", "--calibrate", str(file), "--json")
    assert (code, err) == (0, "")
    costs = json.loads(out)["costs"]
    # by Little's law, in the batch of the only decode worker
    batch = summary["output_token_throughput"].value * tpot / 1000
    context = batch * (32 + 64 / 2)
    assert 1000 * (costs["decode_step"] + context * costs["decode_per_context_token"]) == pytest.approx(tpot, rel=0.01)
    assert "by run.json" in costs["source"]
