"""Refuse flags by which a decode worker keeps the KV of answers where the prompt-only cache does not bound it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from sun_sglang.contracts.decode_cache import ANSWER_STORE_FLAGS
from sun_sglang.contracts.worker_card import Identity
from sun_sglang.errors import TopologyError
from sun_sglang.launch.planning.decode_cache.choice import same_weights
from sun_sglang.launch.planning.gpu_assignment import flag_path
from sun_sglang.topology import Topology


def require_bounded(topology: Topology, identities: Mapping[str, Identity | None]) -> None:
    """Raise if a decode pool keeps the KV of answers and a task of it has prefill weights of its own.

    The decode module made that KV. A later turn of the conversation would reuse it where the task's prefill module
    would have made other KV.

    Args:
        topology: the whole topology.
        identities: each pool's identity; None where its checkpoint is not on this machine.

    Raises:
        TopologyError: names the first such flag by its YAML path.
    """
    for name, pool in topology.pools.items():
        if pool.role != "decode" or same_weights(topology, identities, name):
            continue
        flags = topology.engine_of(name)
        for flag in (flag for flag in ANSWER_STORE_FLAGS if flags.get(flag)):
            raise TopologyError(
                flag_path(topology, name, flag),
                f"the decode pool `{name}` would keep the KV of answers, which tasks with other prefill weights reuse",
                "remove it"
                if flag in pool.engine
                else f"set it in the `engine` of prefill pools, or to `false` in `pools.{name}.engine`",
            )
