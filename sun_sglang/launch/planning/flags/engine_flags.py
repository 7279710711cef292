"""Check the `engine:` of a topology against SGLang's flags, and write flags as arguments. Pure."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from sun_sglang.errors import TopologyError
from sun_sglang.launch.planning.flags.flag_schema import Flag, FlagSchema
from sun_sglang.topology import EngineFlags

# other spellings of the flags that the planner reads
_CANONICAL = {
    "tensor_parallel_size": "tp_size",
    "pipeline_parallel_size": "pp_size",
    "data_parallel_size": "dp_size",
    "attention_data_parallel_size": "attn_dp_size",
}

# flags that give a request power over a worker: what they do, and what to use instead
_REFUSED = {
    "enable_custom_logit_processor": ("makes workers run pickled code from requests", "remove it, and use `logit_bias`")
}


def canonical_flags(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return flags with one name for each that the planner reads, such as `tp_size` for `tensor_parallel_size`."""
    return {canonical_name(key): value for key, value in flags.items()}


def canonical_name(flag: str) -> str:
    """Return the one name of a flag that the planner reads; any other name unchanged."""
    return _CANONICAL.get(flag, flag)


def check_flags(sources: Iterable[tuple[str, EngineFlags]], schema: FlagSchema) -> None:
    """Check every `engine:` of a file against SGLang's parser.

    Args:
        sources: the YAML path of each, and its flags.
        schema: SGLang's flags.

    Raises:
        TopologyError: a flag is unknown (the message lists close matches), SGLang would refuse its value, or requests
            could run code on a worker with it.
    """
    for where, flags in sources:
        for key, value in flags.items():
            _check_flag(f"{where}.{key}", key, value, schema)


def to_argv(flags: Mapping[str, Any], schema: FlagSchema | None = None) -> tuple[str, ...]:
    """Return flags as command line arguments, in the order given.

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


def _check_flag(where: str, key: str, value: Any, schema: FlagSchema) -> None:
    flag = schema.by_key.get(key)
    if flag is None:
        close = difflib.get_close_matches(key, schema.by_key, n=3)
        fix = f"did you mean {' or '.join(f'`{c}`' for c in close)}?" if close else "see `sglang serve --help`"
        raise TopologyError(where, f"SGLang {schema.version} has no such flag", fix)
    if value is None:
        return
    if key in _REFUSED and value is not False:
        raise TopologyError(where, *_REFUSED[key])
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
    # argparse would read a value that starts with a dash as another flag
    return [f"{option}={text}"] if text.startswith("-") else [option, text]
