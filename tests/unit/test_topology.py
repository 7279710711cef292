from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from sun_sglang.errors import TopologyError, UserError
from sun_sglang.topology import TaskName
from sun_sglang.topology_file import load_topology, parse_topology

SUN = """
pools:
  base: {role: decode, model: base-model, replicas: 2}
  math: {role: prefill, model: math-model}
  tool: {role: prefill, model: tool-model, engine: {dtype: float32}}
tasks:
  math: {prefill: math, decode: base}
  tool: {prefill: tool, decode: base}
engine: {dtype: bfloat16, page_size: 1}
"""

HERE = Path("/topologies")


def refusal(text: str) -> str:
    with pytest.raises(TopologyError) as caught:
        parse_topology(text, base=HERE, source="sun.yaml")
    return str(caught.value)


def test_tasks_are_pairs_of_pools() -> None:
    topology = parse_topology(SUN, base=HERE)
    assert topology.pairs() == [("math", "base"), ("tool", "base")]
    assert topology.tasks_of("base") == ["math", "tool"]
    assert topology.tasks_of("math") == ["math"]


def test_a_pools_own_flags_win_over_the_files() -> None:
    topology = parse_topology(SUN, base=HERE)
    assert topology.engine_of("tool") == {"dtype": "float32", "page_size": 1}
    assert topology.engine_of("math") == {"dtype": "bfloat16", "page_size": 1}


def test_what_is_left_out_has_a_default() -> None:
    topology = parse_topology(SUN, base=HERE)
    assert (topology.router.host, topology.router.port) == ("127.0.0.1", 8000)
    assert topology.pools["math"].replicas == 1
    assert not topology.tasks["math"].any_decoder


def test_a_topology_cannot_be_changed() -> None:
    topology = parse_topology(SUN, base=HERE)
    with pytest.raises(ValueError, match="frozen"):
        topology.router = topology.router


@pytest.mark.parametrize(
    ("was", "becomes", "message"),
    [
        ("role: decode,", "", "pools.base.role: is required"),
        ("role: decode", "role: both", "pools.base.role: Input should be 'prefill' or 'decode' (got 'both')"),
        ("model: base-model, ", "", "pools.base.model: is required"),
        ("model: base-model", "model: ''", "pools.base.model: String should have at least 1 character (got '')"),
        (
            "replicas: 2",
            "replicas: 0",
            "pools.base.replicas: Input should be greater than or equal to 1 (got 0)",
        ),
        (
            "replicas: 2",
            "copies: 2",
            "pools.base.copies: unknown key; known keys: `role`, `model`, `replicas`, `revision`, `engine`, `gpus`",
        ),
        (
            "  math: {prefill: math, decode: base}",
            "  math: {prefill: math, decode: base, first: x}",
            "tasks.math.first: unknown key; known keys: `prefill`, `decode`, `any_decoder`",
        ),
        (
            "decode: base}",
            "decode: bass}",
            "tasks.math.decode: no pool is named `bass`; pools: `base`, `math`, `tool`",
        ),
        (
            "math: {prefill: math,",
            "math: {prefill: base,",
            "tasks.math.prefill: pool `base` is a decode pool; prefill pools: `math`, `tool`",
        ),
        (
            "tool: {prefill: tool,",
            "tool: {prefill: math,",
            "pools.tool: no task uses this pool; name it in a task or remove it",
        ),
        (
            "page_size: 1",
            "--page-size: 1",
            "engine.--page-size: is not how a flag is written here; write `page_size`",
        ),
        ("page_size: 1", "port: 1", "engine.port: is set by the launcher; remove it"),
        (
            "page_size: 1",
            "tokenizer_worker_num: 2",
            "engine.tokenizer_worker_num: is not supported: each of SGLang's HTTP processes imports its application "
            "anew, without the worker's routes and its key (more `replicas` have more HTTP processes); remove it",
        ),
        (
            "engine: {dtype: float32}",
            "engine: {grpc_mode: true}",
            "pools.tool.engine.grpc_mode: would make SGLang serve gRPC instead of the HTTP application that the router "
            "uses; remove it",
        ),
        (
            "engine: {dtype: float32}",
            "engine: {model_path: x}",
            "pools.tool.engine.model_path: is set by the pool's `model` and `revision`; remove it",
        ),
        (
            "page_size: 1",
            "api_key: x",
            "engine.api_key: is not supported: the router reaches its workers over plain HTTP and without a key; "
            "remove it",
        ),
        (
            "engine: {dtype: bfloat16, page_size: 1}",
            "router: {port: 70000}",
            "router.port: Input should be less than or equal to 65535 (got 70000)",
        ),
        (
            "  base: {",
            "  math: {",
            "sun.yaml:4: not valid YAML: key `math` is given twice",
        ),
        ("  base: {", "  'b ase': {", "pools.b ase: String should match pattern "),
        ("tasks:", "task:", "task: unknown key; known keys: `pools`, `tasks`, "),
        ("model: base-model", 'model: "a\\0b"', "pools.base.model: 'a\\x00b' is not a path"),
        ("model: base-model", "model: ~nobody-here/x", "pools.base.model: '~nobody-here/x' is not a path"),
        ("pools:", "? [a]\n: b\npools:", "sun.yaml:2: not valid YAML: a key is not a name"),
    ],
)
def test_a_mistake_is_named_with_its_place(was: str, becomes: str, message: str) -> None:
    assert was in SUN
    assert refusal(SUN.replace(was, becomes, 1)).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "sun.yaml: has no keys; start with `pools:` and `tasks:`"),
        ("- a", "sun.yaml: has no keys; start with `pools:` and `tasks:`"),
        ("pools: {a: [", "sun.yaml:1: not valid YAML: "),
        (
            "pools:\n  a: {role: decode, model: 2026-02-30}",
            "sun.yaml:2: not valid YAML: a value is not a valid `timestamp`; put it in quotes",
        ),
        ("pools: " + "1" * 5000, "sun.yaml:1: not valid YAML: a value is not a valid `int`; put it in quotes"),
        ("pools: " + "[" * 500, "sun.yaml: not valid YAML: it is nested too deeply"),
        ("pools: {}\ntasks: {}", "pools: Dictionary should have at least 1 item after validation, not 0 (got {})"),
    ],
)
def test_what_is_no_topology_is_refused(text: str, message: str) -> None:
    assert refusal(text).startswith(message)


def test_a_model_beside_the_file_becomes_a_path(tmp_path: Path) -> None:
    (tmp_path / "models" / "base").mkdir(parents=True)
    file = tmp_path / "sun.yaml"
    file.write_text(SUN.replace("base-model", "models/base").replace("math-model", "./models/math"))
    pools = load_topology(file).pools
    assert pools["base"].model == str(tmp_path / "models" / "base")
    assert pools["math"].model == str(tmp_path / "models" / "math")
    assert pools["tool"].model == "tool-model", "neither there nor written as a path: a Hugging Face id"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.yaml: cannot be read \(No such file or directory\)"):
        load_topology(tmp_path / "absent.yaml")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"binary\.yaml: is not UTF-8 text"):
        load_topology(binary)


def test_files_that_flags_name_are_relative_to_the_topology_file(tmp_path: Path) -> None:
    for name in ("mine.jinja", "scales.json"):
        (tmp_path / name).write_text("")
    text = SUN.replace("{dtype: float32}", "{quantization_param_path: ./scales.json}").replace(
        "page_size: 1", "chat_template: mine.jinja, tokenizer_path: org/words"
    )
    topology = parse_topology(text, base=tmp_path)
    assert topology.engine["chat_template"] == str(tmp_path / "mine.jinja")
    assert topology.engine["tokenizer_path"] == "org/words", "a hub id stays one"
    assert topology.pools["tool"].engine == {"quantization_param_path": str(tmp_path / "scales.json")}


def test_file_of_a_flag_that_does_not_exist_is_named(tmp_path: Path) -> None:
    text = SUN.replace("page_size: 1", "chat_template: ./absent.jinja")
    with pytest.raises(TopologyError, match=r"engine\.chat_template: .*absent\.jinja does not exist; give a path rel"):
        parse_topology(text, base=tmp_path)


@pytest.mark.parametrize("name", ["team/../math", "team/..", "team/.", "team/.hidden", "team//math", "math/", "/math"])
def test_name_that_is_another_path_in_a_url_is_no_name_of_a_task(name: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(TaskName).validate_python(name)


@pytest.mark.parametrize("name", ["math", "team/math", "a/b/c-1.2", "base:math", "v1..2", "a/_b", "a/:b"])
def test_name_of_a_task_may_have_slashes_colons_and_dots(name: str) -> None:
    assert TypeAdapter(TaskName).validate_python(name) == name


SCALED = SUN + "autoscale: {pool: base, min: 2, max: 8, slo: {tpot: 25ms}, window: 1m}\n"


def test_pool_that_sizes_itself_is_given_alone_or_in_a_list_with_durations() -> None:
    (scaled,) = parse_topology(SCALED, base=HERE).autoscale
    assert (scaled.pool, scaled.min, scaled.max, scaled.slo.tpot, scaled.window) == ("base", 2, 8, 0.025, 60.0)
    listed = SUN + "autoscale: [{pool: base, max: 3, slo: {tpot: 0.5}, costs: c.yaml}]\n"
    (scaled,) = parse_topology(listed, base=HERE).autoscale
    assert (scaled.min, scaled.slo.tpot, scaled.costs) == (1, 0.5, "/topologies/c.yaml")


@pytest.mark.parametrize(
    ("was", "becomes", "message"),
    [
        ("min: 2", "min: 9", "autoscale.0: min 9 is more than max 8"),
        ("tpot: 25ms", "tpot: 25 parsecs", "autoscale.0.slo.tpot: is no duration; write seconds, or a number with"),
        ("tpot: 25ms", "tpot: 0", "autoscale.0.slo.tpot: "),
        ("tpot: 25ms", "tpot: .nan", "autoscale.0.slo.tpot: "),
        ("pool: base", "pool: math", "autoscale.0.pool: `math` is a prefill pool; decode pools: `base`"),
        ("pool: base", "pool: bass", "autoscale.0.pool: `bass` is no pool of this file; decode pools: `base`"),
        ("min: 2, max: 8", "max: 1", "pools.base.replicas: 2 is more than the `max` 1 of `autoscale.0`"),
        (
            "autoscale: {pool: base",
            "autoscale: base\nrouter: {port: 1}\nx: {pool: base",
            "autoscale: is a mapping such as",
        ),
        ("slo: {tpot: 25ms}", "slo: {ttft: 1}", "autoscale.0.slo.tpot: is required"),
    ],
)
def test_mistake_in_autoscale_is_named_with_its_place(was: str, becomes: str, message: str) -> None:
    assert was in SCALED
    assert message in refusal(SCALED.replace(was, becomes))


def test_pool_that_sizes_itself_is_not_given_twice() -> None:
    twice = SUN + "autoscale: [{pool: base, max: 3, slo: {tpot: 1}}, {pool: base, max: 4, slo: {tpot: 1}}]\n"
    assert "autoscale.1.pool: `base` is given twice" in refusal(twice)


def test_keys_in_place_of_a_key_file_are_not_shown() -> None:
    message = refusal(SUN + "router: {api_keys: [sk-secret-0123456789]}\n")
    assert message == "router.api_keys: is no path; give the path of a file of keys"
    assert "sk-secret" not in refusal(SUN + "router: [{api_keys: sk-secret-0123456789}]\n")
