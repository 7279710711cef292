"""Bound the number of compiled grammars that a worker keeps.

SGLang keeps every grammar that a client has sent (JSON schemas, regular expressions), and XGrammar's compiler keeps it
a second time. A schema of 28 KB takes 13 MB of a worker's memory until the worker ends: about a hundred requests take
a gigabyte.
"""

from __future__ import annotations

from typing import Any

from sun_sglang.patches.patch import Patch
from sun_sglang.patches.versions import on

MAX_GRAMMARS = 32
_WHY = "compiled grammars are never dropped: clients with many JSON schemas exhaust a worker's memory"
_REMOVABLE_WHEN = "when SGLang bounds the memory of its grammar caches"


def drop_oldest(_result: None, backend: Any, *_args: Any, **_kwargs: Any) -> None:
    """Drop the grammars that were compiled first; a running request keeps its own copy."""
    while len(backend.cache) > MAX_GRAMMARS:
        backend.cache.pop(next(iter(backend.cache)))


def compile_without_cache(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Disable the compiler's cache; SGLang's cache holds the grammars that were compiled last."""
    return args, {**kwargs, "cache_enabled": False}


KEPT = Patch(
    name="few_grammars.kept",
    target="sglang.srt.constrained.base_grammar_backend.BaseGrammarBackend.set_cache",
    parameters=(("self", "key", "value"),),
    kind="after",
    hook=drop_oldest,
    why=_WHY,
    versions=on("drops the grammars that were compiled first"),
    removable_when=_REMOVABLE_WHEN,
)
COMPILER = Patch(
    name="few_grammars.compiler",
    target="sglang.srt.constrained.xgrammar_backend.GrammarCompiler.__init__",
    parameters=(("self", "tokenizer_info", "max_threads", "cache_enabled", "cache_limit_bytes"),),
    kind="before",
    hook=compile_without_cache,
    why=_WHY,
    versions=on("disables the compiler's cache"),
    removable_when=_REMOVABLE_WHEN,
)
