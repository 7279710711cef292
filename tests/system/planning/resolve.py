"""Resolve workers' command lines through SGLang's own `ServerArgs`, each in a process forked after one import.

    python -m tests.system.planning.resolve < {"WORKER": {"gpu": "h100", "argv": [...]}, ...}

Writes `{"WORKER": Resolved or {"error": ...}, ...}` as one line of JSON.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import sys
from types import SimpleNamespace
from typing import Any

from tests.system.planning.faked_gpu import GPUS, appear, import_without_gpu

MARK = "resolved:"


def resolve(gpu: str, argv: list[str]) -> dict[str, Any]:
    """Return what a worker with this command line would run with, as far as SGLang decides it before it starts.

    Raises what SGLang raises where it refuses the command line.
    """
    appear(GPUS[gpu])
    from sglang.srt.arg_groups.model_override_base import attention_backends_of, model_config_of
    from sglang.srt.mem_cache import kv_cache_builder
    from sglang.srt.mem_cache.registry import get_radix_cache_factory
    from sglang.srt.server_args import prepare_server_args

    args = prepare_server_args(argv)
    args.resolve_once()
    args.check_server_args()
    flags = args.resolved_dict()
    model = model_config_of(args)
    # a scheduler calls this once it has its pools; before 0.5.23 `build_kv_cache` contains the same
    validate = getattr(kv_cache_builder, "validate_decode_radix_cache", None)
    if validate is not None and flags["disaggregation_decode_enable_radix_cache"]:
        validate(
            model_config=model,
            token_to_kv_pool=object(),
            is_hybrid_swa=model.is_hybrid_swa,
            enable_hierarchical_cache=flags["enable_hierarchical_cache"],
        )
    cache = flags["radix_cache_backend"]
    assert cache is None or get_radix_cache_factory(cache) is not None, f"nobody registered {cache}"
    return {
        "device": flags["device"],
        "page_size": flags["page_size"],
        "kv_cache_dtype": flags["kv_cache_dtype"],
        "dtype": str(model.dtype if flags["dtype"] == "auto" else flags["dtype"]),
        "attention": attention_backends_of(SimpleNamespace(**flags)),
        "sliding_window": model.is_hybrid_swa,
        "state": kv_cache_builder.uses_ssm_state(model),
        "cached": not flags["disable_radix_cache"],
        "radix_cache_backend": cache,
        "transfer": flags["disaggregation_transfer_backend"],
        "overlap": not flags["disable_overlap_schedule"],
        "decode_graph": flags["cuda_graph_config"]["decode"]["backend"],
    }


def _outcome(worker: tuple[str, dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    name, asked = worker
    try:
        return name, resolve(asked["gpu"], asked["argv"])
    # argparse exits on an unknown flag; the test shows which worker it was
    except (Exception, SystemExit) as e:
        return name, {"error": repr(e)}


def main() -> None:
    """Resolve the command lines on stdin."""
    workers = json.load(sys.stdin)
    # what is imported stays in every fork: a search for garbage there would copy it
    gc.disable()
    import_without_gpu()
    gc.freeze()
    with multiprocessing.get_context("fork").Pool(2, maxtasksperchild=1) as pool:
        resolved = dict(pool.imap(_outcome, workers.items(), chunksize=1))
    sys.stdout.write(f"\n{MARK}{json.dumps(resolved, default=str)}\n")


if __name__ == "__main__":
    main()
