"""A worker keeps few compiled grammars.

SGLang keeps every grammar that a client ever sent (JSON schemas, regular expressions), and XGrammar's compiler keeps it
again. A schema of 28 KB takes 13 MB of a worker for good: some hundred requests a gigabyte, until the worker ends.
"""

from __future__ import annotations

from typing import Any

from sun_sglang.patches.patch import Patch
from sun_sglang.patches.versions import on

MOST_GRAMMARS = 32
_WHY = "compiled grammars are never dropped: clients with many JSON schemas take all memory of a worker"
_WAY_OUT = "when SGLang bounds the memory of its grammar caches"


def drop_oldest(_result: None, backend: Any, *_args: Any, **_kwargs: Any) -> None:
    """Drop the grammars that were compiled first; requests that follow one of them keep their own copy."""
    while len(backend.cache) > MOST_GRAMMARS:
        backend.cache.pop(next(iter(backend.cache)))


def compile_without_cache(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Make a compiler that keeps nothing; SGLang's own cache has what was compiled last."""
    return args, {**kwargs, "cache_enabled": False}


KEPT = Patch(
    name="few_grammars.kept",
    target="sglang.srt.constrained.base_grammar_backend.BaseGrammarBackend.set_cache",
    parameters=(("self", "key", "value"),),
    kind="after",
    hook=drop_oldest,
    why=_WHY,
    versions=on("drops the grammars that were compiled first"),
    way_out=_WAY_OUT,
)
COMPILER = Patch(
    name="few_grammars.compiler",
    target="sglang.srt.constrained.xgrammar_backend.GrammarCompiler.__init__",
    parameters=(("self", "tokenizer_info", "max_threads", "cache_enabled", "cache_limit_bytes"),),
    kind="before",
    hook=compile_without_cache,
    why=_WHY,
    versions=on("makes a compiler that keeps nothing"),
    way_out=_WAY_OUT,
)
