"""Find what is wrong before a process starts: flags, models, pairs of models, the router's files and its port."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass

from sun_sglang.checkpoint.completeness.require_complete import require_complete
from sun_sglang.checkpoint.config_overrides import OVERRIDES, overrides_of
from sun_sglang.checkpoint.identity import read_identity
from sun_sglang.checkpoint.tuning import is_tuned_for
from sun_sglang.contracts.kv_compatibility import require_same
from sun_sglang.contracts.module_file import read_served_module
from sun_sglang.errors import CheckpointError, IdentityError, TopologyError
from sun_sglang.launch.planning.adapters.lora_flags import require_room
from sun_sglang.launch.planning.adapters.task_adapters import adapter_notes, read_task_adapters
from sun_sglang.launch.planning.cpu_weights import cpu_weight_notes
from sun_sglang.launch.planning.decode_cache.answer_stores import require_bounded
from sun_sglang.launch.planning.flags.engine_flags import check_flags
from sun_sglang.launch.planning.flags.flag_schema import FlagSchema
from sun_sglang.launch.planning.hardware.machine import Machine
from sun_sglang.launch.planning.modules.limits import require_turns
from sun_sglang.launch.planning.modules.task_modules import read_task_modules, require_modules_fit
from sun_sglang.launch.planning.pool_settings import PoolSettings
from sun_sglang.launch.planning.pools import Checkpoint, CheckpointReader, Pools, PoolTasks, resolve_pools
from sun_sglang.launch.planning.worker_kinds.kinds import WORKER_KINDS
from sun_sglang.launch.planning.worker_kinds.worker_kind import WorkerKind
from sun_sglang.router.auth.access import load_tls_context
from sun_sglang.router.auth.api_keys import load_keys
from sun_sglang.topology import EngineFlags, Topology


@dataclass(frozen=True)
class PreflightReport:
    """The result of a preflight that found nothing wrong.

    Attributes:
        pools: every pool, resolved for the machine.
        notes: what could not be checked and why, as sentences.
    """

    pools: Pools
    notes: tuple[str, ...]


def preflight(
    topology: Topology,
    machine: Machine,
    schema: FlagSchema | None,
    read_checkpoint: CheckpointReader | None = None,
) -> PreflightReport:
    """Check everything that does not need a process, and resolve the pools.

    Args:
        topology: as loaded.
        machine: as detected.
        schema: the installed SGLang's flags; None leaves them unchecked, with a note.
        read_checkpoint: reads a pool's checkpoint; None for `read_pool_checkpoint`.

    Raises:
        TopologyError: a flag, a model or a decoder is wrong, or a flag would keep the KV of answers.
        IdentityError: the pools of a task cannot share KV.
        CheckpointError: a model directory or an adapter cannot be read.
        UserError: the router's keys or certificate cannot be read, the installed SGLang is not supported, or the usable
            GPUs cannot be determined.
    """
    notes: list[str] = []
    load_keys(topology.router.api_keys, {})
    load_tls_context(topology.router)
    for kind in dict.fromkeys(topology.backend_of(name) for name in topology.pools):
        WORKER_KINDS[kind].require_supported()
    if schema is None:
        notes.append("SGLang is not installed here: its flags in `engine` were not checked.")
    else:
        check_flags(topology.engines(), schema)
    weights = PoolTasks(read_task_adapters(topology), read_task_modules(topology))
    pools = resolve_pools(topology, machine, read_checkpoint or read_pool_checkpoint, weights)
    for pool in pools.values():
        require_room(pool, pool.adapters)
        require_turns(pool)
    notes += checkpoint_notes(pools)
    for task in topology.tasks:
        _check_versions(topology, task, pools)
        _check_pair(topology, task, pools)
        _check_decoder(topology, task, pools)
        _check_prefill(topology, task, pools)
    notes += adapter_notes(topology, pools)
    require_modules_fit(topology, pools)
    notes += cpu_weight_notes(pools)
    require_bounded(pools)
    return PreflightReport(pools, tuple(notes))


def require_router_port(topology: Topology) -> None:
    """Raise unless the router can listen at the topology's address.

    Raises:
        TopologyError: the address belongs to another machine, or the port is taken.
    """
    host, port = topology.router.host, topology.router.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((host, port))
        except OSError as e:
            raise TopologyError(
                "router",
                f"cannot listen on {host}:{port} ({e.strerror or e})",
                "choose another port, or 0 for a free one",
            ) from e


def read_pool_checkpoint(kind: WorkerKind, pool: PoolSettings, flags: EngineFlags) -> Checkpoint | None:
    """Return the facts of a pool's checkpoint; None where it is not on this machine.

    Raises:
        TopologyError: the pool's `model` or `json_model_override_args` is wrong.
        CheckpointError: the model directory cannot be read.
    """
    try:
        overrides_of(flags)
    except CheckpointError as e:
        raise TopologyError(pool.flag_path(OVERRIDES), str(e).removeprefix(f"{OVERRIDES}: ")) from e
    directory = kind.find_checkpoint(pool)
    if directory is None:
        return None
    try:
        identity = read_identity(directory, flags, sglang=kind.sglang_version(pool))
    except CheckpointError as e:
        raise CheckpointError(f"{pool.where}.model: {e}") from e
    return Checkpoint(identity, read_served_module(directory), directory)


def checkpoint_notes(pools: Pools) -> Iterator[str]:
    """Check that the checkpoints that workers load are whole, and yield a sentence for each that was not compared.

    Raises:
        CheckpointError: a checkpoint is not whole.
    """
    absent = [pool for pool in pools.values() if pool.checkpoint is None and pool.kind.needs_checkpoint]
    if absent:
        names = ", ".join(f"`{pool.name}` ({pool.model})" for pool in absent)
        yield f"Not on this machine and taken for Hugging Face ids, so not checked: {names}."
    for pool in pools.values():
        if pool.checkpoint is None or pool.checkpoint.directory is None or not pool.kind.needs_checkpoint:
            continue
        try:
            reason = require_complete(pool.checkpoint.directory, pool.flags)
        except CheckpointError as e:
            raise CheckpointError(f"{pool.where}.model: {e}") from e
        if reason:
            yield f"`{pool.name}`: the names and shapes of its tensors were not checked: {reason}."


def _check_versions(topology: Topology, task: str, pools: Pools) -> None:
    """Raise unless the two pools of a task run or imitate one version of SGLang: two cannot transfer KV."""
    pair = topology.tasks[task]
    versions = {name: pools[name].kind.sglang_version(pools[name]) for name in (pair.prefill, pair.decode)}
    if len(set(versions.values())) > 1:
        problem = f"its pools emulate different versions of SGLang: {versions}"
        raise TopologyError(f"tasks.{task}", problem, "set `sglang` of their `emulated` to the same version")


def _check_pair(topology: Topology, task: str, pools: Pools) -> None:
    """Raise unless the pools of a task can share KV; a pool whose checkpoint is not here is not checked."""
    names = (topology.tasks[task].prefill, topology.tasks[task].decode)
    left, right = pools[names[0]].identity, pools[names[1]].identity
    if left is not None and right is not None:
        require_same(left, right, names=names, where=f"tasks.{task}")


def _check_decoder(topology: Topology, task: str, pools: Pools) -> None:
    """Raise unless the prefill model of a task was tuned for its decoder, or the task takes any.

    A decoder that was made from the right one, such as a 4-bit version, is another decoder.
    """
    pair = topology.tasks[task]
    prefill, decode = pools[pair.prefill], pools[pair.decode]
    module, decoder = prefill.served_module, decode.identity
    if module is None or decoder is None or pair.any_decoder or is_tuned_for(module.decoder, decoder.decoder):
        return
    made = (
        " (made from those)" if decode.served_module is not None and decode.served_module.base == module.decoder else ""
    )
    raise IdentityError(
        f"tasks.{task}: `{prefill.name}` was tuned to be decoded by weights {module.decoder}, and `{decode.name}` "
        f"has weights {decoder.decoder}{made}; name the right decode pool, tune again for this one, or set "
        "`any_decoder: true` on the task"
    )


def _check_prefill(topology: Topology, task: str, pools: Pools) -> None:
    """Raise unless the decode model of a task was tuned on the KV of its prefill model, or the task takes any pair."""
    pair = topology.tasks[task]
    prefill, decode = pools[pair.prefill].identity, pools[pair.decode].identity
    module = pools[pair.decode].served_module
    if prefill is None or decode is None or module is None or pair.any_decoder:
        return
    tuned_on = module.tuned_on(decode.weights, decode.decoder)
    if tuned_on and tuned_on != decode.weights and module.first_token == "prefill":
        raise IdentityError(
            f"tasks.{task}: `{pair.decode}` was tuned to decode from the KV of another model, and its sun.json names "
            "`first_token: prefill`: that model, which was not tuned, would make the first token; tune it with "
            "`first_token: decode`, or set `any_decoder: true` on the task"
        )
    if not tuned_on or prefill.weights == tuned_on:
        return
    raise IdentityError(
        f"tasks.{task}: `{pair.decode}` was tuned on prompts that weights {tuned_on} prefill, and `{pair.prefill}` has "
        f"weights {prefill.weights}; name the right prefill pool, tune again for this one, or set "
        "`any_decoder: true` on the task"
    )
