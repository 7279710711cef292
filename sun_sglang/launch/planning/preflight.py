"""What can be known to be wrong before a process starts: flags, models, pairs of models, the router's port."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from pathlib import Path

from sun_sglang.checkpoint.identity import find_checkpoint, read_identity
from sun_sglang.checkpoint.tuning import Tuning, is_tuned_for, read_tuning
from sun_sglang.contracts.kv_compatibility import require_same
from sun_sglang.contracts.worker_card import Identity
from sun_sglang.errors import CheckpointError, IdentityError, PatchError, TopologyError, UserError
from sun_sglang.launch.planning.decode_cache.answer_stores import require_bounded
from sun_sglang.launch.planning.engine_defaults import dtype_default
from sun_sglang.launch.planning.engine_flags import FlagSchema, canonical_flags, check_flags
from sun_sglang.launch.planning.machine import Machine
from sun_sglang.patches.versions import installed_version, require_supported
from sun_sglang.router.auth.access import load_tls_context
from sun_sglang.router.auth.api_keys import load_keys
from sun_sglang.strict import Strict
from sun_sglang.topology import Pool, Topology

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


class PreflightReport(Strict):
    """What a preflight found out.

    Attributes:
        identities: each pool's identity; None where its checkpoint is not on this machine.
        notes: what could not be checked and why, as sentences.
    """

    identities: dict[str, Identity | None]
    notes: tuple[str, ...]


def preflight(topology: Topology, machine: Machine, schema: FlagSchema | None) -> PreflightReport:
    """Check everything that does not need a process.

    Args:
        topology: as loaded.
        machine: as detected; it decides the dtype that a CPU worker gets.
        schema: the installed SGLang's flags; None leaves them unchecked, with a note.

    Raises:
        TopologyError: a flag, a model or a decoder is wrong, or a flag would keep the KV of answers.
        IdentityError: the pools of a task cannot share KV.
        CheckpointError: a model directory cannot be read.
        UserError: the router's keys or certificate cannot be read, or the product was not run on the installed SGLang.
    """
    notes: list[str] = []
    load_keys(topology.router.api_keys, {})
    load_tls_context(topology.router)
    if any(topology.backend_of(name) == "sglang" for name in topology.pools):
        _require_known_sglang()
    if schema is None:
        notes.append("SGLang is not installed here: its flags in `engine` were not checked.")
    else:
        check_flags(topology, schema)
    places = {name: _place(topology, name) for name in topology.pools}
    identities = {name: _identity(topology, machine, name, place) for name, place in places.items()}
    unread = [name for name, place in places.items() if place is None and topology.backend_of(name) == "sglang"]
    absent = [f"`{name}` ({topology.pools[name].model})" for name in unread]
    if absent:
        notes.append(f"Not on this machine and taken for Hugging Face ids, so not checked: {', '.join(absent)}.")
    tunings = {name: read_tuning(place) if place else None for name, place in places.items()}
    for task in topology.tasks:
        _check_pair(topology, task, identities)
        _check_decoder(topology, task, identities, tunings)
    require_bounded(topology, identities)
    return PreflightReport(identities=identities, notes=tuple(notes))


def locate_model(name: str, pool: Pool) -> Path | None:
    """Where a pool's checkpoint is on this machine; None for a Hugging Face id that is not in the local cache.

    Raises:
        TopologyError: the model is neither a directory nor shaped like a Hugging Face id.
    """
    path = Path(pool.model)
    if path.is_absolute():
        if not path.is_dir():
            raise TopologyError(f"pools.{name}.model", f"{path} is not a directory", "give a model's directory")
        return path
    if not _HUB_ID.fullmatch(pool.model):
        raise TopologyError(
            f"pools.{name}.model",
            f"`{pool.model}` is neither a directory beside the topology file nor a Hugging Face id",
            "give a directory, or an id such as `meta-llama/Llama-3.1-8B-Instruct`",
        )
    return find_checkpoint(pool.model, pool.revision)


def require_router_port(topology: Topology) -> None:
    """Raise unless the router can listen where the topology says.

    Raises:
        TopologyError: the address is not this machine's, or the port is taken.
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


def _place(topology: Topology, name: str) -> Path | None:
    """Where a pool's checkpoint is; an emulated worker needs none, so for it any name will do."""
    pool = topology.pools[name]
    if topology.backend_of(name) == "emulated":
        return find_checkpoint(pool.model, pool.revision)
    return locate_model(name, pool)


def _identity(topology: Topology, machine: Machine, name: str, place: Path | None) -> Identity | None:
    if place is None:
        return None
    try:
        flags = dtype_default(topology, machine, name) | canonical_flags(topology.engine_of(name))
        return read_identity(place, flags, sglang=_sglang_of(topology, name))
    except CheckpointError as e:
        raise CheckpointError(f"pools.{name}.model: {e}") from e


def _require_known_sglang() -> None:
    """Raise unless each worker would start with the installed SGLang; a machine without SGLang starts none."""
    version = installed_version()
    if version is None:
        return
    try:
        require_supported(version)
    except PatchError as e:
        raise UserError(str(e)) from e


def _sglang_of(topology: Topology, pool: str) -> str:
    """Return the version of SGLang that a pool's workers run or emulate; empty where none is installed."""
    if topology.backend_of(pool) == "emulated":
        return topology.emulation_of(pool).sglang
    return installed_version() or ""


def _check_pair(topology: Topology, task: str, identities: Mapping[str, Identity | None]) -> None:
    names = (topology.tasks[task].prefill, topology.tasks[task].decode)
    left, right = identities[names[0]], identities[names[1]]
    if left is not None and right is not None:
        require_same(left, right, names=names, where=f"tasks.{task}")


def _check_decoder(
    topology: Topology, task: str, identities: Mapping[str, Identity | None], tunings: Mapping[str, Tuning | None]
) -> None:
    """Raise unless the prefill model of a task was tuned for its decoder, or the task takes any.

    A decoder that was made from the right one, such as a 4-bit version, is another decoder.
    """
    pair = topology.tasks[task]
    tuning, other, decoder = tunings[pair.prefill], tunings[pair.decode], identities[pair.decode]
    for pool, record in ((pair.prefill, tuning), (pair.decode, other)):
        if record is not None and record.first_token == "decode":
            raise IdentityError(
                f"tasks.{task}: `{pool}` was tuned for a first token from the decode module, which is not served yet"
            )
    if tuning is None or decoder is None or pair.any_decoder or is_tuned_for(tuning.decoder, decoder.decoder):
        return
    made = " (made from those)" if other is not None and other.base == tuning.decoder else ""
    raise IdentityError(
        f"tasks.{task}: `{pair.prefill}` was tuned to be decoded by weights {tuning.decoder}, and `{pair.decode}` "
        f"has weights {decoder.decoder}{made}; name the right decode pool, tune again for this one, or set "
        "`any_decoder: true` on the task"
    )
