"""Send the worker key in SGLang's warm-up request.

SGLang's warm-up calls the worker's own HTTP server. SGLang's flag `--api-key` would set a key for it, but a flag is
visible on the command line, in the log and in `/server_info`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from sun_sglang.contracts.worker_key import read_key
from sun_sglang.patches.patch import Patch
from sun_sglang.patches.versions import on


def warm_up_with_key(warm_up: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run the warm-up with this process's worker key as SGLang's `api_key`, and reset `api_key` afterwards."""
    from sglang.srt.runtime_context import get_serving

    key = read_key(os.environ)
    if key is None:
        return warm_up(*args, **kwargs)
    with get_serving().override(api_key=key):
        return warm_up(*args, **kwargs)


PATCH = Patch(
    name="worker_key",
    target="sglang.srt.entrypoints.http_server._wait_and_warmup",
    parameters=(
        ("server_args", "launch_callback", "execute_warmup_func"),
        ("server_args", "launch_callback", "execute_warmup_func", "post_warmup_callback"),
    ),
    kind="around",
    hook=warm_up_with_key,
    why="the server would answer 401 to its own warm-up and end",
    versions=on("sends the worker key in the warm-up"),
    removable_when="when SGLang reads its API key from the environment and protects every route with it",
)
