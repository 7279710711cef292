import argparse
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sun_sglang.errors import TopologyError
from sun_sglang.launch.planning.flags.engine_flags import canonical_flags, check_flags, to_argv
from sun_sglang.launch.planning.flags.flag_schema import FlagSchema, load_flag_schema, schema_of
from sun_sglang.topology_file import parse_topology


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--tp-size", "--tensor-parallel-size", type=int)
    parser.add_argument("--mem-fraction", type=float)
    parser.add_argument("--log-level", type=str)
    parser.add_argument("--dtype", type=str, choices=["auto", "float32"])
    parser.add_argument("--level", type=int, choices=[0, 1])
    parser.add_argument("--enable-x", action="store_true")
    parser.add_argument("--enable-custom-logit-processor", action="store_true")
    parser.add_argument("--strict", action=argparse.BooleanOptionalAction)
    parser.add_argument("--paths", type=str, nargs="+")
    parser.add_argument("--json-list", type=json.loads)
    parser.add_argument("--json-object", type=json.loads)
    return parser


@pytest.fixture(scope="module")
def schema() -> FlagSchema:
    return schema_of(build_parser(), "1.2.3")


plain = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
values = st.fixed_dictionaries(
    {},
    optional={
        "tp_size": st.integers(),
        "mem_fraction": st.floats(allow_nan=False),
        "log_level": plain,
        "dtype": st.sampled_from(["auto", "float32"]),
        "level": st.sampled_from([0, 1]),
        "enable_x": st.booleans(),
        "strict": st.booleans(),
        # argparse itself cannot take a list item that starts with a dash
        "paths": st.lists(plain.filter(lambda t: not t.startswith("-")), min_size=1),
        "json_list": st.lists(st.integers() | plain),
        "json_object": st.dictionaries(plain, st.integers() | plain),
    },
)


@given(values)
def test_sglang_reads_what_the_topology_says(flags: dict[str, Any]) -> None:
    argv = to_argv(flags, schema_of(build_parser(), "1.2.3"))
    read = vars(build_parser().parse_args(argv))
    asked = {key: flags.get(key, False if key.startswith("enable_") else None) for key in read}
    assert read == asked


@pytest.mark.parametrize(
    ("flags", "argv"),
    [
        ({"enable_x": True}, ("--enable-x",)),
        ({"enable_x": False}, ()),
        ({"tp_size": None}, ()),
        ({"tp_size": 2, "log_level": "warn"}, ("--tp-size", "2", "--log-level", "warn")),
        ({"paths": ["a", "b"]}, ("--paths", "a", "b")),
        ({"json_object": {"a": 1}}, ("--json-object", '{"a": 1}')),
        ({"log_level": "-v"}, ("--log-level=-v",)),
    ],
)
def test_arguments_do_not_need_a_schema(flags: dict[str, Any], argv: tuple[str, ...], schema: FlagSchema) -> None:
    assert to_argv(flags) == to_argv(flags, schema) == argv


def test_other_names_of_a_flag_are_one_flag() -> None:
    assert canonical_flags({"tensor_parallel_size": 2, "dtype": "auto"}) == {"tp_size": 2, "dtype": "auto"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("tp_siz: 1", "engine.tp_siz: SGLang 1.2.3 has no such flag; did you mean `tp_size`?"),
        ("zzz: 1", "engine.zzz: SGLang 1.2.3 has no such flag; see `sglang serve --help`"),
        ("no_strict: true", "engine.no_strict: SGLang 1.2.3 has no such flag; "),
        ("dtype: int4", "engine.dtype: 'int4' is not a choice; choices: auto, float32"),
        ("level: 2", "engine.level: 2 is not a choice; choices: 0, 1"),
        ("level: true", "engine.level: True is not a choice; choices: 0, 1"),
        ("tp_size: two", "engine.tp_size: must be a whole number (got 'two')"),
        ("tp_size: true", "engine.tp_size: must be a whole number (got True)"),
        ("mem_fraction: most", "engine.mem_fraction: must be a number (got 'most')"),
        ("enable_x: 1", "engine.enable_x: is a switch (got 1); write `true` or `false`"),
        (
            "enable_custom_logit_processor: true",
            "engine.enable_custom_logit_processor: makes workers run pickled code from requests; remove it, ",
        ),
        ("log_level: true", "engine.log_level: must be a value, not a switch (got True)"),
        ("paths: []", "engine.paths: is an empty list; name at least one value, or remove it"),
        ("paths: [true]", "engine.paths: must be a value, not a switch (got True)"),
    ],
)
def test_a_flag_that_sglang_would_refuse_is_named(flags: str, message: str, schema: FlagSchema) -> None:
    with pytest.raises(TopologyError) as caught:
        check_flags(topology_with(flags).engines(), schema)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "flags",
    [
        "tp_size: 2",
        "tensor_parallel_size: 2",
        "mem_fraction: 1",
        "strict: false",
        "dtype: null",
        "json_list: [1]",
        "enable_custom_logit_processor: false",
    ],
)
def test_a_flag_that_sglang_takes_passes(flags: str, schema: FlagSchema) -> None:
    check_flags(topology_with(flags).engines(), schema)


def test_a_pools_own_flags_are_checked_too(schema: FlagSchema) -> None:
    text = "pools: {a: {role: prefill, model: m, engine: {dtype: x}}, b: {role: decode, model: m}}\n"
    topology = parse_topology(text + "tasks: {t: {prefill: a, decode: b}}", base=Path())
    with pytest.raises(TopologyError, match=r"pools\.a\.engine\.dtype: 'x' is not a choice"):
        check_flags(topology.engines(), schema)


@pytest.mark.skipif(importlib.util.find_spec("sglang") is None, reason="SGLang is not installed")
def test_the_installed_sglang_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = load_flag_schema()
    assert first is not None
    flags = first.by_key
    assert (flags["tp_size"].type, flags["tp_size"].kind) == ("int", "value")
    assert flags["enable_cache_report"].kind == "switch"
    assert "bfloat16" in flags["dtype"].choices
    assert "DSPARK" in first.speculative_with_cache
    (file,) = (tmp_path / "sun-sglang").iterdir()
    file.write_text(first.model_copy(update={"version": "from the file"}).model_dump_json())
    second = load_flag_schema()
    assert second is not None
    assert second.version == "from the file"


def topology_with(flags: str) -> Any:
    text = "pools: {a: {role: prefill, model: m}, b: {role: decode, model: m}}\ntasks: {t: {prefill: a, decode: b}}\n"
    return parse_topology(f"{text}engine: {{{flags}}}", base=Path())
