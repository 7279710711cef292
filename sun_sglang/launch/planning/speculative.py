"""Which speculative algorithms SGLang combines with the radix cache of a decode worker, asked of SGLang's own checks.

The answer differs between versions, the checks stand in different places, and none of them has a list to read.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from tempfile import TemporaryDirectory
from typing import Any

_CACHE = "--disaggregation-decode-enable-radix-cache"
_CHECKS = (
    ("sglang.srt.arg_groups.pd_disaggregation_hook", "handle_pd_disaggregation"),
    ("sglang.srt.arg_groups.speculative_hook", "handle_speculative_decoding"),
)
# spelled only on the command line: SGLang's own enumeration has EAGLE for it
_ALIASES = ("NEXTN",)


def speculative_with_cache() -> tuple[str, ...]:
    """Return the algorithms that a decode worker takes beside its radix cache, as a user may spell them.

    Imports SGLang, whose process `prepare_process` has to have prepared.
    """
    from sglang.srt.server_args import prepare_server_args
    from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

    checks = [getattr(importlib.import_module(module), name) for module, name in _CHECKS]
    names = [*(member.name for member in SpeculativeAlgorithm if member.name != "NONE"), *_ALIASES]
    spelled = sorted({spelling for name in names for spelling in (name, name.lower())})
    # a directory without a model: SGLang would look for any other name on Hugging Face, and wait
    with TemporaryDirectory() as empty:
        model = ("--model-path", empty)
        return taken(spelled, lambda argv: _resolve(prepare_server_args([*model, *argv]), checks))


def taken(algorithms: Sequence[str], resolve: Callable[[Sequence[str]], object]) -> tuple[str, ...]:
    """Return the algorithms for which the cache makes no difference to how `resolve` ends.

    Args:
        algorithms: values of `--speculative-algorithm`.
        resolve: takes SGLang's arguments and raises what SGLang raises. There is no model, so it may raise for other
            reasons, which are the same with the cache and without.
    """
    found = []
    for algorithm in algorithms:
        asked = ("--disaggregation-mode", "decode", "--speculative-algorithm", algorithm)
        if _ending(resolve, asked) == _ending(resolve, (*asked, _CACHE)):
            found.append(algorithm)
    return tuple(found)


def _resolve(server_args: Any, checks: Sequence[Callable[[Any], object]]) -> None:
    for check in checks:
        check(server_args)


def _ending(resolve: Callable[[Sequence[str]], object], argv: Sequence[str]) -> str:
    try:
        resolve(argv)
    # argparse exits on a flag that it does not know
    except (Exception, SystemExit) as e:
        return repr(e)
    return ""
