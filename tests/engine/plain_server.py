"""Run SGLang's own server without this package's hooks: `python -m tests.engine.plain_server FLAGS`.

Without a GPU SGLang needs a preparation before it can be imported, and its processes are forked instead of spawned:
each would import SGLang again.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from typing import Any

from sun_sglang.cpu import has_gpu, prepare_cpu_engine


def fork_instead(*_args: Any, **_kwargs: Any) -> None:
    """Stand for `multiprocessing.set_start_method`."""
    _set_start_method("fork", force=True)


_set_start_method = multiprocessing.set_start_method


def main(argv: list[str]) -> None:
    """Serve until the process is stopped."""
    # the plugins that SGLang loads: none has this name
    os.environ["SGLANG_PLUGINS"] = "none"
    if not has_gpu():
        prepare_cpu_engine()
        multiprocessing.set_start_method = fork_instead
    from sglang.launch_server import run_server
    from sglang.srt.server_args import prepare_server_args

    run_server(prepare_server_args(argv))


if __name__ == "__main__":
    main(sys.argv[1:])
