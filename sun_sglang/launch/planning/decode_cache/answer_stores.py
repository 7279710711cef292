"""Reject flags by which a decode worker keeps the KV of answers where the prompt-only cache does not bound it. Pure."""

from __future__ import annotations

from sun_sglang.contracts.decode_cache import ANSWER_STORE_FLAGS
from sun_sglang.errors import TopologyError
from sun_sglang.launch.planning.pools import Pools


def require_bounded(pools: Pools) -> None:
    """Raise if a decode pool keeps the KV of answers and a task of it has prefill weights of its own.

    The decode module made that KV. A later turn of the conversation would reuse it where the task's prefill module
    would have made other KV.

    Raises:
        TopologyError: names the first such flag by its YAML path.
    """
    for pool in pools.values():
        if pool.role != "decode" or pool.same_module:
            continue
        for flag in (flag for flag in ANSWER_STORE_FLAGS if pool.flags.get(flag)):
            raise TopologyError(
                pool.flag_path(flag),
                f"the decode pool `{pool.name}` would keep the KV of answers, which tasks with other prefill weights "
                "reuse",
                "remove it"
                if pool.sets_itself(flag)
                else f"set it in the `engine` of prefill pools, or to `false` in `pools.{pool.name}.engine`",
            )
