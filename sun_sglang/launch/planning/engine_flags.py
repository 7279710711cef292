"""SGLang's command line flags: check what a topology's `engine:` says, and write it as arguments.

SGLang's own argument parser is the authority. Building it imports torch (seconds, and gigabytes of address space), so
another process does that once per installed SGLang and the answer is kept in the user's cache directory.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from sun_sglang.errors import LaunchError, TopologyError
from sun_sglang.strict import Strict
from sun_sglang.topology import Topology

Kind = Literal["switch", "on_off", "value", "list"]
_MARK = "sun-flags:"
_FORMAT = 2  # of the cached file; raise it when `FlagSchema` changes
# other spellings of the flags that the planner reads
_CANONICAL = {
    "tensor_parallel_size": "tp_size",
    "pipeline_parallel_size": "pp_size",
    "data_parallel_size": "dp_size",
    "attention_data_parallel_size": "attn_dp_size",
}


class Flag(Strict):
    """One flag of SGLang.

    Attributes:
        options: its spellings, such as `--tp-size`.
        kind: `switch` takes nothing, `on_off` also has a `--no-` form, `list` takes several values.
        type: what a value must be; `any` where SGLang parses it in its own way (JSON, for example).
        choices: the values allowed, as text; empty where any is.
    """

    options: tuple[str, ...]
    kind: Kind
    type: Literal["int", "float", "str", "any"]
    choices: tuple[str, ...] = ()


class FlagSchema(Strict):
    """All flags of one SGLang version.

    Attributes:
        version: SGLang's.
        flags: all that its parser takes.
        speculative_with_cache: values of `speculative_algorithm` that a decode worker takes beside its radix cache.
    """

    version: str
    flags: tuple[Flag, ...]
    speculative_with_cache: tuple[str, ...] = ()

    @cached_property
    def by_key(self) -> dict[str, Flag]:
        """Flags by how a topology writes them: underscores, no dashes."""
        spelled = ((option, flag) for flag in self.flags for option in flag.options)
        return {o.lstrip("-").replace("-", "_"): f for o, f in spelled if not (f.kind == "on_off" and "--no-" in o)}


def canonical_flags(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return flags with one name for each that the planner reads, such as `tp_size` for `tensor_parallel_size`."""
    return {canonical_name(key): value for key, value in flags.items()}


def canonical_name(flag: str) -> str:
    """Return the one name of a flag that the planner reads; any other name unchanged."""
    return _CANONICAL.get(flag, flag)


def check_flags(topology: Topology, schema: FlagSchema) -> None:
    """Check every `engine:` of a topology against SGLang's parser.

    Raises:
        TopologyError: the first unknown flag, with close matches, or the first value that SGLang would refuse.
    """
    sources = [("engine", topology.engine)] + [(f"pools.{n}.engine", p.engine) for n, p in topology.pools.items()]
    for where, flags in sources:
        for key, value in flags.items():
            _check_flag(f"{where}.{key}", key, value, schema)


def to_argv(flags: Mapping[str, Any], schema: FlagSchema | None = None) -> tuple[str, ...]:
    """Flags as command line arguments, in the order given.

    `None` leaves a flag to SGLang. `True` is the bare flag, `False` leaves it out or, where SGLang has one, writes its
    `--no-` form. A list becomes several values where the flag takes several, else JSON; a mapping becomes JSON.

    Args:
        flags: names with underscores.
        schema: without one, `False` is left out and a list becomes several values.
    """
    argv: list[str] = []
    for key, value in flags.items():
        if value is not None:
            argv += _arguments(key, value, schema.by_key.get(key) if schema else None)
    return tuple(argv)


def load_flag_schema() -> FlagSchema | None:
    """The flags of the installed SGLang; None where there is none.

    The first call for an installation takes seconds, later ones read a file in `$XDG_CACHE_HOME/sun-sglang`.

    Raises:
        LaunchError: SGLang is installed but its argument parser cannot be built.
    """
    spec = importlib.util.find_spec("sglang")
    if spec is None or not spec.submodule_search_locations:
        return None
    source = Path(next(iter(spec.submodule_search_locations))) / "srt" / "server_args.py"
    if not source.exists():
        return None
    file = _cache_file(source)
    if file.exists():
        return FlagSchema.model_validate_json(file.read_bytes())
    schema = _ask_sglang()
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}")
    partial.write_text(schema.model_dump_json(), encoding="utf-8")
    partial.replace(file)
    return schema


def schema_of(parser: argparse.ArgumentParser, version: str, speculative_with_cache: Iterable[str] = ()) -> FlagSchema:
    """Return a parser's flags as data.

    Args:
        parser: SGLang's.
        version: SGLang's.
        speculative_with_cache: as in `FlagSchema`.
    """
    # argparse keeps its actions in this attribute only
    actions = [a for a in parser._actions if a.option_strings and not isinstance(a, argparse._HelpAction)]
    flags = tuple(_flag(a) for a in actions)
    return FlagSchema(version=version, flags=flags, speculative_with_cache=tuple(speculative_with_cache))


def _flag(action: argparse.Action) -> Flag:
    names: dict[object, Literal["int", "float", "str"]] = {int: "int", float: "float", str: "str", None: "str"}
    kind: Kind = "value"
    if isinstance(action, argparse.BooleanOptionalAction):
        kind = "on_off"
    elif action.nargs == 0:
        kind = "switch"
    elif action.nargs in ("+", "*") or isinstance(action.nargs, int):
        kind = "list"
    return Flag(
        options=tuple(action.option_strings),
        kind=kind,
        type=names.get(action.type, "any"),
        choices=tuple(str(c) for c in action.choices or ()),
    )


def _check_flag(where: str, key: str, value: Any, schema: FlagSchema) -> None:
    flag = schema.by_key.get(key)
    if flag is None:
        close = difflib.get_close_matches(key, schema.by_key, n=3)
        fix = f"did you mean {' or '.join(f'`{c}`' for c in close)}?" if close else "see `sglang serve --help`"
        raise TopologyError(where, f"SGLang {schema.version} has no such flag", fix)
    if value is None:
        return
    if flag.kind in ("switch", "on_off"):
        if not isinstance(value, bool):
            raise TopologyError(where, f"is a switch (got {value!r})", "write `true` or `false`")
        return
    if value == [] and flag.kind == "list":
        raise TopologyError(where, "is an empty list", "name at least one value, or remove it")
    items = value if flag.kind == "list" and isinstance(value, list) else [value]
    for item in items:
        _check_value(where, item, flag)


def _check_value(where: str, value: Any, flag: Flag) -> None:
    if flag.choices:
        if isinstance(value, bool) or str(value) not in flag.choices:
            raise TopologyError(where, f"{value!r} is not a choice", f"choices: {', '.join(flag.choices)}")
        return
    wrong = {
        "int": isinstance(value, bool) or not isinstance(value, int),
        "float": isinstance(value, bool) or not isinstance(value, (int, float)),
        "str": isinstance(value, bool),
        "any": isinstance(value, bool),
    }[flag.type]
    if wrong:
        what = {"int": "a whole number", "float": "a number"}.get(flag.type, "a value, not a switch")
        raise TopologyError(where, f"must be {what} (got {value!r})")


def _arguments(key: str, value: Any, flag: Flag | None) -> list[str]:
    option = "--" + key.replace("_", "-")
    if value is True:
        return [option]
    if value is False:
        negative = "--no-" + option.removeprefix("--")
        return [negative] if flag and negative in flag.options else []
    if isinstance(value, Mapping):
        return [option, json.dumps(value)]
    if isinstance(value, (list, tuple)):
        if flag and flag.kind != "list":
            return [option, json.dumps(value)]
        return [option, *(json.dumps(v) if isinstance(v, (dict, list)) else str(v) for v in value)]
    text = str(value)
    # argparse would take a value that starts with a dash for another flag
    return [f"{option}={text}"] if text.startswith("-") else [option, text]


def _cache_file(source: Path) -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sun-sglang"
    state = f"{_FORMAT} {source} {source.stat().st_mtime_ns} {sys.version_info[:2]}"
    return root / f"flags-{hashlib.sha256(state.encode()).hexdigest()[:16]}.json"


def _ask_sglang() -> FlagSchema:
    done = subprocess.run(
        [sys.executable, "-c", "from sun_sglang.launch.planning.engine_flags import print_schema; print_schema()"],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if done.returncode or not lines:
        tail = "\n".join(_last(done.stderr.splitlines(), 20))
        raise LaunchError(f"SGLang is installed but its flags cannot be read:\n{tail}")
    return FlagSchema.model_validate_json(lines[-1].removeprefix(_MARK))


def _last(lines: Iterable[str], count: int) -> list[str]:
    return list(lines)[-count:]


def print_schema() -> None:
    """Import SGLang's argument parser and print its flags; what the other process of `load_flag_schema` runs."""
    from sun_sglang.worker.server import prepare_process

    prepare_process()
    from sglang.srt.server_args import ServerArgs

    from sun_sglang.launch.planning.decode_cache.speculative import speculative_with_cache

    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    schema = schema_of(parser, importlib.metadata.version("sglang"), speculative_with_cache())
    sys.stdout.write(f"\n{_MARK}{schema.model_dump_json()}\n")
