"""The flags of the installed SGLang, read from its own argument parser.

Building that parser imports torch, which takes seconds and gigabytes of address space. Another process does it once per
installed SGLang, and the user's cache directory keeps the answer.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Literal

from sun_sglang.errors import LaunchError
from sun_sglang.files.user_cache import engine_caches, read_cached, write_cached
from sun_sglang.strict import Strict

Kind = Literal["switch", "on_off", "value", "list"]
_MARK = "sun-flags:"
# of the cached file; raise it when `FlagSchema` changes
_FORMAT = 2


class Flag(Strict):
    """One flag of SGLang.

    Attributes:
        options: its spellings, such as `--tp-size`.
        kind: `switch` takes nothing, `on_off` also has a `--no-` form, `list` takes several values.
        type: the type of a value; `any` where SGLang parses it in its own way (JSON, for example).
        choices: the allowed values, as text; empty where every value is allowed.
    """

    options: tuple[str, ...]
    kind: Kind
    type: Literal["int", "float", "str", "any"]
    choices: tuple[str, ...] = ()


class FlagSchema(Strict):
    """All flags of one SGLang version.

    Attributes:
        version: the version of SGLang.
        flags: every flag of its parser.
        speculative_with_cache: values of `speculative_algorithm` that a decode worker combines with its radix cache.
    """

    version: str
    flags: tuple[Flag, ...]
    speculative_with_cache: tuple[str, ...] = ()

    @cached_property
    def by_key(self) -> dict[str, Flag]:
        """The flags by the spelling of a topology: underscores, no dashes."""
        spelled = ((option, flag) for flag in self.flags for option in flag.options)
        return {o.lstrip("-").replace("-", "_"): f for o, f in spelled if not (f.kind == "on_off" and "--no-" in o)}


def load_flag_schema() -> FlagSchema | None:
    """Return the flags of the installed SGLang; None where SGLang is not installed.

    The first call for an installation takes seconds; later calls read a file in `$XDG_CACHE_HOME/sun-sglang`.

    Raises:
        LaunchError: SGLang is installed but its argument parser cannot be built.
        UserError: no directory for SGLang's caches can be written.
    """
    spec = importlib.util.find_spec("sglang")
    if spec is None or not spec.submodule_search_locations:
        return None
    source = Path(next(iter(spec.submodule_search_locations))) / "srt" / "server_args.py"
    if not source.exists():
        return None
    name = _cache_name(source)
    schema = read_cached(name, FlagSchema)
    if schema is None:
        schema = _ask_sglang()
        write_cached(name, schema)
    return schema


def schema_of(parser: argparse.ArgumentParser, version: str, speculative_with_cache: Iterable[str] = ()) -> FlagSchema:
    """Return a parser's flags as data.

    Args:
        parser: SGLang's argument parser.
        version: the version of SGLang.
        speculative_with_cache: as in `FlagSchema`.
    """
    # argparse has its actions in this attribute only
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


def _cache_name(source: Path) -> str:
    state = f"{_FORMAT} {source} {source.stat().st_mtime_ns} {sys.version_info[:2]}"
    return f"flags-{hashlib.sha256(state.encode()).hexdigest()[:16]}.json"


def _ask_sglang() -> FlagSchema:
    done = subprocess.run(
        [sys.executable, "-c", "from sun_sglang.launch.planning.flags.flag_schema import print_schema; print_schema()"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **engine_caches(os.environ)},
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if done.returncode or not lines:
        tail = "\n".join(_last(done.stderr.splitlines(), 20))
        raise LaunchError(f"SGLang is installed but its flags cannot be read:\n{tail}")
    return FlagSchema.model_validate_json(lines[-1].removeprefix(_MARK))


def _last(lines: Iterable[str], count: int) -> list[str]:
    return list(lines)[-count:]


def print_schema() -> None:
    """Import SGLang's argument parser and print its flags. Runs in the other process of `load_flag_schema`."""
    from sun_sglang.worker.server import prepare_process

    prepare_process()
    from sglang.srt.server_args import ServerArgs

    from sun_sglang.launch.planning.flags.speculative import speculative_with_cache

    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    schema = schema_of(parser, importlib.metadata.version("sglang"), speculative_with_cache())
    sys.stdout.write(f"\n{_MARK}{schema.model_dump_json()}\n")
