"""Read YAML that a person wrote."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml


def parse_yaml(text: str) -> Any:
    """Return what YAML text holds.

    Raises:
        yaml.YAMLError: the text is no YAML, gives a key twice, or holds a value that its type does not have.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except RecursionError as e:
        raise yaml.YAMLError("it is nested too deeply") from e


class _Loader(yaml.SafeLoader):
    """Refuses a key given twice, since the second would silently win; every error has a line."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Return a mapping as a dictionary."""
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key is not a name", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key `{key}` is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Return a node as an object. `2026-02-30` reads as a date and is none; PyYAML raises ValueError for it."""
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, LookupError, AttributeError, TypeError) as e:
            kind = node.tag.rpartition(":")[2]
            message = f"a value reads as `{kind}` and is none; put it in quotes"
            raise yaml.constructor.ConstructorError(None, None, message, node.start_mark) from e
