"""Plan SGLang servers without a router: each does prefill and decode itself, as `sglang serve` runs it.

They start like the workers of a topology, with the same defaults, shares of the cores and checks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from sun_sglang.launch.planning.flags.engine_flags import canonical_flags, canonical_name, check_flags
from sun_sglang.launch.planning.flags.flag_schema import FlagSchema
from sun_sglang.launch.planning.hardware.machine import Machine
from sun_sglang.launch.planning.plan import WorkerPlan
from sun_sglang.launch.planning.planner import plan_workers
from sun_sglang.launch.planning.pool_settings import PoolSettings
from sun_sglang.launch.planning.pools import Pools, resolve_servers
from sun_sglang.launch.planning.preflight import checkpoint_notes, read_pool_checkpoint
from sun_sglang.launch.planning.worker_kinds.kinds import WORKER_KINDS
from sun_sglang.topology import Emulation, EngineFlags


class ServersPlan(NamedTuple):
    """What is started.

    Attributes:
        pools: the servers, resolved for the machine; each is a pool of one worker.
        workers: their plans.
        notes: what could not be checked, and defaults that were left out, as sentences.
    """

    pools: Pools
    workers: tuple[WorkerPlan, ...]
    notes: tuple[str, ...]


def server_settings(
    name: str,
    where: str,
    model: str,
    *,
    gpus: tuple[int, ...] | None,
    engines: Mapping[str, EngineFlags],
    flags: EngineFlags,
) -> PoolSettings:
    """Return the settings of one server.

    Args:
        name: its name, as `served_model_name`.
        where: its YAML path.
        model: a directory, absolute, or a Hugging Face id.
        gpus: the GPUs that it takes; None: it gets GPUs of its own.
        engines: the user's SGLang flags by the YAML path of their `engine`; a later one wins.
        flags: flags that the launcher sets, by canonical name; the user's win.
    """
    user = {key: value for given in engines.values() for key, value in canonical_flags(given).items()}
    return PoolSettings(
        name=name,
        where=where,
        role="unified",
        model=model,
        revision=None,
        replicas=1,
        flags={**flags, **user},
        paths={canonical_name(key): f"{path}.{key}" for path, given in engines.items() for key in given},
        gpus=gpus,
        emulation=Emulation(),
    )


def plan_servers(
    servers: Mapping[str, PoolSettings], machine: Machine, *, run_dir: Path, schema: FlagSchema | None
) -> ServersPlan:
    """Check everything of some servers that can be checked before a start, and plan them.

    Args:
        servers: their settings by name.
        machine: where they run.
        run_dir: directory for their logs.
        schema: the installed SGLang's flags; None leaves them unchecked.

    Raises:
        UserError: a flag or a model is wrong, the installed SGLang is not supported, or the machine has too few GPUs.
    """
    WORKER_KINDS["sglang"].require_supported()
    if schema is not None:
        check_flags(_sources(servers.values()), schema)
    pools = resolve_servers(servers, machine, read_pool_checkpoint)
    notes = tuple(checkpoint_notes(pools))
    workers, more = plan_workers(pools, machine, None, run_dir=run_dir, schema=schema)
    return ServersPlan(pools, workers, (*notes, *more))


def _sources(servers: Iterable[PoolSettings]) -> Iterator[tuple[str, EngineFlags]]:
    """Yield each flag of some servers, with the YAML path of the `engine` that has it."""
    for server in servers:
        for flag, value in server.flags.items():
            yield server.flag_path(flag).rpartition(".")[0], {flag: value}
