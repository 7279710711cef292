"""Find the speculative algorithms that SGLang combines with the radix cache of a decode worker, by its own checks.

The algorithms differ between versions, and no version has a list of them. So SGLang's checks run for each algorithm.
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
# a spelling of the command line alone: SGLang's enumeration has EAGLE for it
_ALIASES = ("NEXTN",)


def speculative_with_cache() -> tuple[str, ...]:
    """Return the algorithms that a decode worker combines with its radix cache, in all spellings.

    Imports SGLang; `prepare_process` must have prepared this process.
    """
    from sglang.srt.server_args import prepare_server_args
    from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

    checks = [getattr(importlib.import_module(module), name) for module, name in _CHECKS]
    names = [*(member.name for member in SpeculativeAlgorithm if member.name != "NONE"), *_ALIASES]
    spelled = sorted({spelling for name in names for spelling in (name, name.lower())})
    # an empty directory: SGLang would search Hugging Face for any other name, and wait
    with TemporaryDirectory() as empty:
        model = ("--model-path", empty)
        return unaffected_by_cache(spelled, lambda argv: _resolve(prepare_server_args([*model, *argv]), checks))


def unaffected_by_cache(algorithms: Sequence[str], resolve: Callable[[Sequence[str]], object]) -> tuple[str, ...]:
    """Return the algorithms for which `resolve` ends alike with the cache and without it.

    Args:
        algorithms: values of `--speculative-algorithm`.
        resolve: takes SGLang's arguments and raises what SGLang raises. There is no model, so it may raise for another
            reason; such an error is the same with the cache and without it.
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
    # argparse exits on an unknown flag
    except (Exception, SystemExit) as e:
        return repr(e)
    return ""
