import importlib.util
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sun_sglang import __version__
from sun_sglang.checkpoint.adapter.read import read_adapter
from sun_sglang.cli.main import command_names, main
from sun_sglang.launch import doctor
from sun_sglang.launch.planning.hardware.machine import Machine
from sun_sglang.topology import Topology
from tests.support.adapters import write_adapter

Write = Callable[..., Path]


@pytest.fixture
def sun(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Run the `sun` command; gives back its exit code, standard output and standard error."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        captured = capsys.readouterr()
        code = stopped.value.code
        return (0 if code is None else int(code)), captured.out, captured.err

    return run


@pytest.fixture
def topology(tmp_path: Path, write_checkpoint: Write) -> Path:
    write_checkpoint("base")
    write_checkpoint("math", weights=b"tuned")
    file = tmp_path / "sun.yaml"
    file.write_text(
        "pools:\n  base: {role: decode, model: ./base}\n  math: {role: prefill, model: ./math}\n"
        "tasks:\n  sums: {prefill: math, decode: base}\n"
    )
    return file


def test_the_version(sun: Any) -> None:
    assert sun("--version") == (0, f"sun-sglang {__version__}\n", "")


@pytest.mark.parametrize("name", list(command_names()))
def test_every_command_shows_an_example_of_itself(sun: Any, name: str) -> None:
    code, out, _ = sun(name, "--help")
    assert code == 0
    assert f"Example: sun {name}" in out


def test_every_command_is_in_the_help(sun: Any) -> None:
    _, out, _ = sun("--help")
    assert {"check", "doctor", "schema"} <= set(command_names())
    assert all(f" {name} " in out for name in command_names())


@pytest.mark.parametrize("arguments", [("check",), ("chekc",), ("check", "--no-such-option")])
def test_wrong_usage_is_two(sun: Any, arguments: tuple[str, ...]) -> None:
    code, out, err = sun(*arguments)
    assert (code, out) == (2, "")
    assert "Usage: sun" in err


def test_check_shows_what_would_run(sun: Any, topology: Path) -> None:
    code, out, err = sun("check", str(topology))
    assert (code, err) == (0, "")
    assert "Nothing wrong was found." in out
    assert "KV transfer: " in out


def test_check_as_json(sun: Any, topology: Path) -> None:
    code, out, _ = sun("check", "--json", str(topology))
    report = json.loads(out)
    assert code == 0
    assert report["ok"] is True
    assert report["tasks"] == {"sums": {"prefill": "math", "decode": "base", "adapter": None, "module": None}}
    assert [w["name"] for w in report["workers"]] == ["base-0", "math-0"]
    assert report["pools"]["math"]["weights"] != report["pools"]["base"]["weights"]
    assert report["transfer"]["reason"]


def test_check_shows_adapters(sun: Any, topology: Path) -> None:
    directory = write_adapter(topology.parent / "sql", rank=3, modules=("mlp.down_proj",))
    topology.write_text(topology.read_text().replace("decode: base}", "decode: base, adapter: ./sql}"))
    code, out, err = sun("check", "--json", str(topology))
    assert code == 0, out + err
    shown = json.loads(out)["tasks"]["sums"]["adapter"]
    name = read_adapter(directory).name
    assert (shown["name"], shown["rank"], shown["target_modules"]) == (name, 3, ["down_proj"])
    assert shown["fingerprint"] is False
    _, out, _ = sun("check", str(topology))
    assert f"{name} │ 3    │ none" in out


def test_check_notes_that_a_models_decode_cache_is_left_out(sun: Any, topology: Path, write_checkpoint: Write) -> None:
    for name in ("base", "math"):
        write_checkpoint(f"gemma/{name}", {"architectures": ["Gemma4ForCausalLM"]}, weights=name.encode())
    topology.write_text(topology.read_text().replace("model: ./", "model: ./gemma/"))
    code, out, err = sun("check", str(topology))
    assert (code, err) == (0, "")
    said = "Pool `base` has no decode cache: SGLang cannot combine it with the architecture `Gemma4ForCausalLM`."
    assert said in " ".join(out.split())


def test_check_notes_a_port_in_use(sun: Any, topology: Path) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        topology.write_text(f"{topology.read_text()}router: {{port: {port}}}\n")
        code, out, _ = sun("check", "--json", str(topology))
    assert code == 0
    assert f"cannot listen on 127.0.0.1:{port}" in json.loads(out)["notes"][-1]


def test_a_users_mistake_is_one_line(sun: Any, topology: Path) -> None:
    topology.write_text(topology.read_text().replace("decode: base", "decode: bass"))
    code, out, err = sun("check", str(topology))
    assert (code, out) == (1, "")
    assert err == "error: tasks.sums.decode: no pool is named `bass`; pools: `base`, `math`\n"


def test_a_users_mistake_as_json(sun: Any, topology: Path) -> None:
    topology.write_text(topology.read_text().replace("decode: base", "decode: bass"))
    code, out, err = sun("check", "--json", str(topology))
    assert (code, err) == (1, "")
    assert json.loads(out) == {
        "ok": False,
        "error": {
            "type": "TopologyError",
            "where": "tasks.sums.decode",
            "message": "tasks.sums.decode: no pool is named `bass`; pools: `base`, `math`",
        },
    }


def test_markup_in_an_error_is_printed_as_it_is(sun: Any, tmp_path: Path) -> None:
    _, _, err = sun("check", str(tmp_path / "[red].yaml"))
    assert "[red].yaml: cannot be read" in err


def test_the_schema_describes_every_key(sun: Any) -> None:
    code, out, _ = sun("schema")
    schema = json.loads(out)
    assert code == 0
    assert set(schema["properties"]) == set(Topology.model_fields)
    assert schema["required"] == ["pools"], "a directory of adapters may name all tasks"
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Pool"]["properties"]["role"]["enum"] == ["prefill", "decode"]


def test_the_example_in_the_readme_is_a_topology() -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    block = readme.split("```yaml\n")[1].split("```")[0]
    assert Topology.model_validate(yaml.safe_load(block)).pairs()


@pytest.mark.parametrize(
    ("installed", "state", "detail"),
    [
        ("0.5.21", "ok", "0.5.21"),
        ("0.5.20", "bad", "SGLang 0.5.20 is installed, and sun-sglang supports 0.5.21"),
        (None, "note", "not installed: workers need one of 0.5.21"),
    ],
)
def test_doctor_compares_the_installed_sglang_with_the_versions_run_on(
    installed: str | None, state: str, detail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "installed_version", lambda: installed)
    (found,) = [f for f in doctor.version_findings() if f.what == "sglang"]
    assert (found.state, found.detail[: len(detail)]) == (state, detail)


def test_doctor_names_the_variable_that_leaves_out_the_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SGLANG_PLUGINS", raising=False)
    assert not [f for f in doctor.version_findings() if f.what == "SGLANG_PLUGINS"]
    monkeypatch.setenv("SGLANG_PLUGINS", "other")
    (found,) = [f for f in doctor.version_findings() if f.what == "SGLANG_PLUGINS"]
    assert found.state == "bad"
    assert "SGLANG_PLUGINS=other makes SGLang skip" in found.detail


def test_doctor_calls_gpus_that_cannot_be_told_bad() -> None:
    found = doctor.machine_findings(
        Machine(cores=1, memory=1, gpu_problem="CUDA_VISIBLE_DEVICES: `MIG-9` matches no GPU")
    )
    assert (found[0].state, found[0].detail) == ("bad", "CUDA_VISIBLE_DEVICES: `MIG-9` matches no GPU")


def test_the_doctor_tries_each_transfer_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_NATIVE", {"mooncake": "json", "nixl": "no_such_module"})
    found = doctor.transfer_findings(Machine(cores=1, memory=1, transfer_packages=frozenset({"mooncake", "nixl"})))
    assert [(f.what, f.state) for f in found] == [("mooncake", "ok"), ("nixl", "bad")]
    assert "No module named 'no_such_module'" in found[1].detail


def test_without_sglang_the_doctor_still_lists_the_hooks(sun: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code, out, _ = sun("doctor", "--json")
    report = json.loads(out)
    assert code == 0
    assert {p["state"] for p in report["patches"]} == {"unknown"}
    assert all(p["why"] and p["removable_when"] for p in report["patches"])


@pytest.mark.skipif(importlib.util.find_spec("sglang") is None, reason="SGLang is not installed")
def test_the_doctor_looks_at_the_hooks_as_a_worker_loads_them(sun: Any) -> None:
    code, out, _ = sun("doctor", "--json")
    report = json.loads(out)
    states = {p["name"]: p["state"] for p in report["patches"]}
    assert code == 0, report
    assert states["prompt_only_cache"] == "applied"
    assert set(states.values()) <= {"applied", "inactive"}
