from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from sun_sglang.bench.load.workload.settings import WorkloadSettings
from sun_sglang.bench.serving.settings import SWEPT, BenchSettings
from sun_sglang.cli.bench import command
from tests.support.ports import PORTS
from tests.unit.cli.conftest import Sun


def test_bench_help_shows_examples(sun: Sun) -> None:
    code, out, _ = sun("--help")
    assert code == 0
    for example in (
        "sun bench --zipf 1.5",
        "sun bench --request-rate 4 --goodput",
        "sun bench --url",
        "azure.csv",
        "--from",
    ):
        assert example in out


def test_bench_every_setting_has_a_flag_with_its_default() -> None:
    names = [name for name in command.__annotations__ if name not in ("ctx", "return")]
    defaults = dict(zip(names, command.__defaults__ or (), strict=True))
    for name, field in WorkloadSettings.model_fields.items():
        assert name in defaults, f"--{name.replace('_', '-')} is missing"
        if name in SWEPT:
            assert str(defaults[name]) == ("0" if name == "zipf" else str(field.default)), name
        elif name not in ("tasks", "input_file"):
            assert defaults[name] == field.default, name
    for name, field in BenchSettings.model_fields.items():
        if name not in ("workload", "goodput", "sweep", "cores"):
            assert defaults[name] == field.default, name


def test_bench_schema_is_a_json_schema(sun: Sun) -> None:
    code, out, _ = sun("--schema")
    assert code == 0
    jsonschema.Draft202012Validator.check_schema(json.loads(out))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "error: no deployment is running; start one with `sun launch FILE`, or name a server with --url"),
        (("missing.yaml",), "error: missing.yaml is not running"),
        (("--url", "nowhere"), "error: --url: 'nowhere' is not the URL of a server; write it as http://HOST:PORT"),
        (("--url", f"http://127.0.0.1:{next(PORTS)}"), "error: nothing answers at http://127.0.0.1:"),
        (("--output", "/no/such/folder/x.json"), "error: --output: /no/such/folder/x.json cannot be written"),
        (("--output", "/"), "error: --output: / cannot be written"),
        (("--report", "/no/such/folder/x.html"), "error: --report: /no/such/folder/x.html cannot be written"),
        (("--report", "x", "--output", "x"), "error: --report: x is another file of this command"),
        (("--compare", "missing.yaml"), "error: missing.yaml: cannot be read"),
        (("--compare", "missing.yaml", "./missing.yaml"), "error: missing.yaml is named twice"),
        (("--compare", "missing.yaml", "--cores", "decoder:0"), "error: --cores: unknown role `decoder`"),
    ],
)
def test_bench_that_cannot_start_says_so_in_one_line(sun: Sun, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = sun(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith(message)
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("--url", "http://x", "file.yaml"),
        ("--zipf", "many"),
        ("--concurrency", "1,2.5"),
        ("--zipf", "1,"),
        ("--request-rate", ""),
        ("--nope",),
        ("--compare",),
        ("--cores", "decode:0"),
        ("--compare", "--url", "http://x", "a.yaml"),
        ("a.yaml", "b.yaml"),
    ],
)
def test_bench_wrong_usage_exits_with_2(sun: Sun, arguments: tuple[str, ...]) -> None:
    assert sun(*arguments)[0] == 2


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Replace the search for a target by one that serves two tasks; nothing listens there."""
    from sun_sglang.bench.load.client.endpoint import Endpoint
    from sun_sglang.bench.serving.targets.target import one_endpoint

    found = one_endpoint("url", "http://x", Endpoint(f"http://127.0.0.1:{next(PORTS)}"), ("a", "b"))

    async def find(*_: object) -> object:
        return found

    monkeypatch.setattr("sun_sglang.cli.benchmark.run.find_target", find)
    return found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tasks", "a,c"), "serves no task `c`; it serves `a`, `b`"),
        (("--tasks", "a,a"), "--tasks: task `a` is named twice"),
        (("--zipf", "-1"), "--zipf: "),
        (("--zipf", "nan"), "--zipf: "),
        (("--osl", "many"), "--osl: "),
        (("--request-rate", "0"), "--request-rate: "),
        (("--request-rate", "1e9"), "--request-rate: 1e+09 per second make more than"),
        (("--arrival-pattern", "odd"), "--arrival-pattern: "),
        (("--goodput", "ttft:5"), "--goodput: unknown metric `ttft`"),
        (("--request-timeout-seconds", "0"), "--request-timeout-seconds: "),
        (("--max-client-lag", "0"), "--max-client-lag: "),
        (("--num-profile-runs", "0"), "--num-profile-runs: "),
        (("--zipf", "1,2,1"), "--zipf: 1.0 is named twice"),
        (("--zipf", "1,-1"), "--zipf: "),
        (("--find-max-rate",), "--find-max-rate: needs --goodput"),
        (("--goodput-ratio", "0.9"), "--goodput-ratio: needs --find-max-rate"),
        (
            ("--find-max-rate", "--goodput", "request_latency:5", "--request-rate", "1,2"),
            "--request-rate: --find-max-rate tries rates itself",
        ),
        (
            ("--find-max-rate", "--goodput", "request_latency:5", "--goodput-ratio", "2"),
            "--goodput-ratio: ",
        ),
        (("--input-file", "nowhere.jsonl", "--concurrency", "1"), "nowhere.jsonl: "),
        ((), "task `a` cannot be measured: a first request failed with connection: "),
    ],
)
@pytest.mark.usefixtures("target")
def test_bench_wrong_value_names_its_flag(sun: Sun, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = sun(*arguments)
    assert (code, out) == (1, "")
    line = err.splitlines()[-1]
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.usefixtures("target")
def test_bench_interrupted_before_its_window_exits_with_130(sun: Sun, monkeypatch: pytest.MonkeyPatch) -> None:
    from sun_sglang.bench.serving.run import NothingMeasuredError

    def interrupted(*_: object, **__: object) -> None:
        raise NothingMeasuredError

    monkeypatch.setattr("sun_sglang.cli.benchmark.run.run_benchmark", interrupted)
    code, out, err = sun("--concurrency", "1")
    assert (code, out) == (130, "")
    last = err.splitlines()[-1]
    assert last == "interrupted before the window began: nothing was measured, and no file is written"
