"""One use of a name of SGLang, and the check that the installed SGLang supports it (`engine_names.py` lists them)."""

from __future__ import annotations

import ast
import inspect
import pkgutil
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Use:
    """The use of one function, class or module of SGLang.

    Attributes:
        name: its dotted path, with a colon between the module and the name inside it.
        by: the files that use it.
        positional: number of arguments that a call passes by position; None if nothing calls it.
        keywords: arguments that a call passes by name.
        attributes: names that are read or set on the module, on the class or on its instances.
        keys: words that must occur in its source, such as keys of a returned dict.
        only: the SGLang versions on which it is used; empty for all.
    """

    name: str
    by: str
    positional: int | None = None
    keywords: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    only: tuple[str, ...] = ()

    def faults(self) -> Iterator[str]:
        """Yield a sentence for each part of the use that the installed SGLang does not support."""
        try:
            target = pkgutil.resolve_name(self.name)
        except (ImportError, AttributeError) as e:
            yield f"{self.by}: {self.name} is gone ({e})"
            return
        if self.positional is not None:
            signature = inspect.signature(inspect.unwrap(target))
            try:
                signature.bind(*[None] * self.positional, **dict.fromkeys(self.keywords))
            except TypeError as e:
                yield f"{self.by}: {self.name}{signature} cannot be called as it is ({e})"
        if self.attributes:
            known = attributes_of(target)
            yield from (f"{self.by}: {self.name} has no `{name}`" for name in self.attributes if name not in known)
        if self.keys:
            source = inspect.getsource(inspect.unwrap(target))
            yield from (
                f"{self.by}: {self.name} has no `{key}` in its source" for key in self.keys if key not in source
            )


def attributes_of(target: Any) -> set[str]:
    """Return the attributes of a module, or of a class and its instances, those that its methods set included."""
    known = set(dir(target))
    for base in inspect.getmro(target) if inspect.isclass(target) else ():
        known |= set(vars(base).get("__annotations__", ())) | set(getattr(base, "model_fields", ()))
        known |= set(_set_by_methods(base))
    return known


def _set_by_methods(cls: type) -> Iterator[str]:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError):
        return  # a built-in class, or a class made at run time
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
