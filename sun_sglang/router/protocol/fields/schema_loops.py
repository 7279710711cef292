"""Find JSON schemas that refer to themselves without any JSON in between, such as `{"$ref": "#"}`. Pure.

XGrammar compiles such a schema to a grammar that allows no token, and the worker answers 500 for the client's mistake.
XGrammar refuses other schemas that no JSON can satisfy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

_OPTIONS = ("anyOf", "oneOf", "allOf")


def has_loop(root: Any) -> bool:
    """Return whether references and alternatives lead from an object of a schema back to the same object."""
    over: set[int] = set()
    for start in _objects(root):
        path: list[tuple[int, Iterator[Any]]] = []
        on_path: set[int] = set()
        if id(start) not in over:
            path, on_path = [(id(start), _leads_to(start, root))], {id(start)}
        while path:
            node, following = path[-1]
            after = next(following, None)
            if after is None:
                path.pop()
                on_path.discard(node)
                over.add(node)
            elif id(after) in on_path:
                return True
            elif id(after) not in over:
                path.append((id(after), _leads_to(after, root)))
                on_path.add(id(after))
    return False


def _leads_to(node: dict[str, Any], root: Any) -> Iterator[dict[str, Any]]:
    """Yield the objects that may replace an object: the target of its reference, and its alternatives."""
    if isinstance(reference := node.get("$ref"), str) and isinstance(target := _resolve(reference, root), dict):
        yield target
    for name in _OPTIONS:
        if isinstance(options := node.get(name), list):
            yield from (option for option in options if isinstance(option, dict))


def _resolve(reference: str, root: Any) -> Any:
    if not reference.startswith("#"):
        return None
    node = root
    for step in unquote(reference[1:]).split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(node, dict):
            node = node.get(name)
        elif isinstance(node, list) and name.isdecimal() and len(name) < 6 and int(name) < len(node):
            node = node[int(name)]
        else:
            return None
    return node


def _objects(root: Any) -> Iterator[dict[str, Any]]:
    left = [root]
    while left:
        node = left.pop()
        if isinstance(node, dict):
            yield node
            left.extend(node.values())
        elif isinstance(node, list):
            left.extend(node)
