"""Refuse settings with which SGLang serves HTTP through another application than the one that a worker extends.

A worker adds its own routes and the check of its key to SGLang's HTTP application.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sun_sglang.errors import UserError

_TOKENIZERS = "tokenizer_worker_num"
_OTHER = "would make SGLang serve {} instead of the HTTP application that the router uses"
# flags by which SGLang serves another application (`launch_server.py`; `entrypoints/http_server.py` for the first)
OTHER_SERVER_FLAGS = {
    _TOKENIZERS: (
        "is not supported: each of SGLang's HTTP processes imports its application anew, without the worker's routes "
        "and its key (more `replicas` have more HTTP processes)"
    ),
    "smg_grpc_mode": _OTHER.format("gRPC"),
    "grpc_mode": _OTHER.format("gRPC"),
    "use_ray": "is not supported: Ray starts the schedulers, whose hooks the worker cannot check",
}
RUST_SERVER = "SGLANG_RUST_SERVER"
_TRUE = ("true", "1", "yes", "y")  # SGLang: `environ.py`


def require_http_application(server_args: Any, environ: Mapping[str, str]) -> None:
    """Raise if SGLang would serve another application than the one that a worker extends.

    Args:
        server_args: SGLang's `ServerArgs`.
        environ: the environment of the SGLang process.

    Raises:
        UserError: a flag or a variable selects another application; the message names it.
    """
    if environ.get(RUST_SERVER, "").lower() in _TRUE:
        raise UserError(f"{RUST_SERVER} {_OTHER.format('through its Rust server')}; unset it")
    for name, why in OTHER_SERVER_FLAGS.items():
        default = 1 if name == _TOKENIZERS else False
        if getattr(server_args, name, default) != default:
            raise UserError(f"--{name.replace('_', '-')} {why}; remove it")
