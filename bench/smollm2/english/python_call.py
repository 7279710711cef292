"""A function call as Python text, and BFCL's rule of which calls are right.

The rule is that of `bfcl_eval/eval_checker/ast_eval/ast_checker.py` (version 2026.3.23): the function's name, every
required argument, no argument without possible values, and each value among the possible ones. Strings are compared
without case, spaces and some punctuation.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_IGNORED = re.compile(r"[ ,./\-_*^]")
_TYPES: Mapping[str, type] = {
    "string": str,
    "integer": int,
    "float": float,
    "boolean": bool,
    "array": list,
    "tuple": list,
    "dict": dict,
    "any": str,
}
_OMITTED = ""
"""A possible value of an argument that may be left out."""


class Call(NamedTuple):
    """A function's name, dots included, and its arguments."""

    name: str
    arguments: dict[str, Any]


def parse_call(text: str) -> Call | None:
    """Return the one call of a text; None where the text is anything else, or an argument is no literal."""
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if not isinstance(node, ast.Call) or node.args:
            return None
        arguments = {str(part.arg): ast.literal_eval(part.value) for part in node.keywords}
        return Call(ast.unparse(node.func), arguments)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return None


def is_supported(possible: Mapping[str, Sequence[Any]]) -> bool:
    """Return whether the rule covers possible values: each argument has some, and no dictionary holds another."""

    def of_dict(value: Any) -> bool:
        return all(isinstance(v, list) and v and not any(isinstance(i, dict) for i in v) for v in value.values())

    def supported(value: Any) -> bool:
        if isinstance(value, list):
            return all(supported(item) for item in value)
        return of_dict(value) if isinstance(value, dict) else True

    return all(values and supported(values) for values in possible.values())


def render_call(name: str, possible: Mapping[str, Sequence[Any]]) -> str:
    """Return the call with the first possible value of each argument, without those that may be left out."""
    arguments = (f"{key}={_literal(_first(values))}" for key, values in possible.items() if _OMITTED not in values)
    return f"{name}({', '.join(arguments)})"


def is_accepted(call: Call | None, accepted: Mapping[str, Any]) -> bool:
    """Return whether a call is right.

    Args:
        call: the call; None for an answer that is none.
        accepted: `function`, `required` (names), `types` (of all arguments), and `arguments`, the possible values.
    """
    if call is None or call.name != accepted["function"] or not set(accepted["required"]) <= call.arguments.keys():
        return False
    possible: Mapping[str, Sequence[Any]] = accepted["arguments"]
    for key, value in call.arguments.items():
        if key not in possible or not _is_possible(value, possible[key], _TYPES[accepted["types"][key]]):
            return False
    return all(key in call.arguments or _OMITTED in values for key, values in possible.items())


def _is_possible(value: Any, possible: Sequence[Any], expected: type) -> bool:
    if expected is float and type(value) is int:
        value = float(value)
    named = [p for p in possible if p != _OMITTED]
    # a variable's name may stand for a value: possible values are then strings
    if type(value) is not expected and not (named and type(value) is type(named[0])):
        return False
    if isinstance(value, dict):
        return any(_is_possible_dict(value, p) for p in named if isinstance(p, dict))
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return any(len(value) == len(p) and all(map(_is_possible_dict, value, p)) for p in named if isinstance(p, list))
    if isinstance(value, str):
        return any(isinstance(p, str) and _plain(p) == _plain(value) for p in possible)
    return any(_plain(p) == _plain(value) for p in possible)


def _is_possible_dict(value: Mapping[str, Any], possible: Mapping[str, Sequence[Any]]) -> bool:
    known = all(
        key in possible and any(_plain(p) == _plain(item) for p in possible[key]) for key, item in value.items()
    )
    return known and all(key in value or _OMITTED in values for key, values in possible.items())


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return _IGNORED.sub("", value).lower().replace("'", '"')
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _first(values: Sequence[Any]) -> Any:
    return _chosen(next(value for value in values if value != _OMITTED))


def _chosen(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _first(values) for key, values in value.items() if _OMITTED not in values}
    return [_chosen(item) for item in value] if isinstance(value, list) else value


def _literal(value: Any) -> str:
    if isinstance(value, str):
        # double quotes, as in JSON
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(key)}: {_literal(item)}" for key, item in value.items()) + "}"
    return repr(value)
