"""The base of every model of a file, YAML without duplicate keys, and one text for an invalid field."""

from __future__ import annotations

import reprlib
import types
import typing
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from sun_sglang.errors import UserError


class Strict(BaseModel):
    """Base of every model read from a file: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class InvalidField(NamedTuple):
    """The first field of a document that its model rejects.

    Attributes:
        path: keys and indices from the root of the document to the field; empty for the whole document.
        problem: the reason.
        fix: the correction, where it is known; else empty.
    """

    path: tuple[str, ...]
    problem: str
    fix: str = ""

    @property
    def where(self) -> str:
        """The path as text, such as `pools.math.role`; empty for the whole document."""
        return ".".join(self.path)

    def describe(self, root: str = "") -> str:
        """Return path, problem and fix as one line.

        Args:
            root: text for the path of the whole document. Left empty, the line starts with the problem.
        """
        where = self.where or root
        return f"{where}: {self.message}" if where else self.message

    @property
    def message(self) -> str:
        """Problem and fix, without the path."""
        return f"{self.problem}; {self.fix}" if self.fix else self.problem


def first_invalid(
    error: ValidationError, model: type[BaseModel], *, show_value: bool = False, extra_keys: Iterable[str] = ()
) -> InvalidField:
    """Return the first field that pydantic rejected.

    Args:
        error: pydantic's error.
        model: the model of the whole document; the fix for an unknown key lists the known ones.
        show_value: add the rejected value to the problem. A value may be a secret, so the default leaves it out.
        extra_keys: keys that the root of the document may have besides the model's fields.
    """
    first = error.errors(include_url=False, include_input=show_value)[0]
    # pydantic ends the path of a mapping's key with this element
    path = tuple(str(part) for part in first["loc"] if part != "[key]")
    if first["type"] == "extra_forbidden":
        parent = path[:-1]
        known = [*(extra_keys if not parent else ()), *_keys_at(model, parent)]
        return InvalidField(path, "unknown key", f"known keys: {listed(known)}" if known else "")
    if first["type"] == "missing":
        return InvalidField(path, "is required")
    problem = first["msg"].removeprefix("Value error, ")
    return InvalidField(path, f"{problem} (got {reprlib.repr(first['input'])})" if show_value else problem)


def listed(names: Iterable[str]) -> str:
    """Return names as text for a message: each in backticks, separated by commas; `none` where there are none."""
    return ", ".join(f"`{name}`" for name in names) or "none"


def _keys_at(model: type[BaseModel], path: Sequence[str]) -> Iterable[str]:
    """Return the known keys of the mapping at a path of a document; none where no model describes it."""
    annotation: Any = model
    for part in path:
        annotation = _model_or_container(annotation)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            field = annotation.model_fields.get(part)
            annotation = field.annotation if field else None
        else:
            # the last argument of a mapping is its values; a list and a tuple of any length have one type of element
            arguments = [a for a in typing.get_args(annotation) if a is not Ellipsis]
            annotation = arguments[-1] if arguments else None
    found = _model_or_container(annotation)
    return found.model_fields if isinstance(found, type) and issubclass(found, BaseModel) else ()


def _model_or_container(annotation: Any) -> Any:
    """Return an annotation without `Annotated` and without `None` beside it."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _model_or_container(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return _model_or_container(next(a for a in typing.get_args(annotation) if a is not type(None)))
    return annotation


class YamlError(UserError):
    """A text is no YAML, gives a key twice, or holds a value that its type does not have.

    Attributes:
        line: line of the problem, from 1; None where the parser reports none.
        problem: the reason, in one line. It may quote the text.
    """

    def __init__(self, problem: str, line: int | None) -> None:
        self.problem = problem
        self.line = line
        super().__init__(self.describe("YAML"))

    def where(self, source: str) -> str:
        """Return the name of the text with the line of the problem, such as `sun.yaml:3`."""
        return source if self.line is None else f"{source}:{self.line}"

    def describe(self, source: str) -> str:
        """Return the place and the problem as one line."""
        return f"{self.where(source)}: not valid YAML: {self.problem}"


def parse_yaml(text: str) -> Any:
    """Return the content of YAML text.

    Raises:
        YamlError: the text is no YAML, gives a key twice, or holds a value that its type does not have.
    """
    try:
        return yaml.load(text, Loader=UniqueKeyLoader)
    except RecursionError as e:
        raise YamlError("it is nested too deeply", None) from e
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        raise YamlError(str(getattr(e, "problem", None) or e), mark.line + 1 if mark else None) from e


_MERGE = "tag:yaml.org,2002:merge"
# each `<<` copies keys, so nested ones can grow without bound
_MOST_MERGED_KEYS = 10_000


class UniqueKeyLoader(yaml.SafeLoader):
    """A YAML loader that rejects a key given twice, which PyYAML would silently replace; every error has a line."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._flat: dict[int, yaml.MappingNode] = {}

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Check a mapping once, as it is written, then put the mappings in that `<<` names."""
        if id(node) in self._flat:
            return
        self._flat[id(node)] = node
        self._check_keys(node)
        super().flatten_mapping(node)
        if len(node.value) > _MOST_MERGED_KEYS:
            message = f"`<<` puts more than {_MOST_MERGED_KEYS} keys in"
            raise yaml.constructor.ConstructorError(None, None, message, node.start_mark)

    def _check_keys(self, node: yaml.MappingNode) -> None:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                if _MERGE in seen:
                    message = "key `<<` is given twice; give it a list"
                    raise yaml.constructor.ConstructorError(None, None, message, key_node.start_mark)
                seen.add(_MERGE)
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key is not a name", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key `{key}` is given twice", key_node.start_mark)
            seen.add(key)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Return a node as an object; PyYAML raises ValueError for `2026-02-30`, a date that does not exist."""
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, LookupError, AttributeError, TypeError) as e:
            kind = node.tag.rpartition(":")[2]
            message = f"a value is not a valid `{kind}`; put it in quotes"
            raise yaml.constructor.ConstructorError(None, None, message, node.start_mark) from e
