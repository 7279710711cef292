"""A peer file: SGLang servers, and the tasks that each of them serves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from sun_sglang.errors import TopologyError
from sun_sglang.launch.planning.flags.flag_schema import FlagSchema
from sun_sglang.launch.planning.hardware.machine import Machine
from sun_sglang.launch.planning.pool_settings import PoolSettings
from sun_sglang.launch.planning.servers import ServersPlan, plan_servers, server_settings
from sun_sglang.strict import Strict, YamlError, first_invalid, parse_yaml
from sun_sglang.topology import EngineFlags, PoolName, TaskName
from sun_sglang.topology_file import check_owned_flags, resolve_flags, resolve_model

_OWNED = {
    "enable_lora": "is set where a server has `adapters`",
    "lora_paths": "is set by the server's `adapters`",
}


class PeerServer(Strict):
    """One SGLang server.

    Attributes:
        name: its name.
        model: a directory (absolute once loaded) or a Hugging Face id.
        tasks: the tasks that it serves; empty: those of its adapters, else one with its own name.
        gpus: the GPUs that it takes, as `gpus` of a pool; servers may share one. None: it gets GPUs of its own.
        adapters: the directory of the LoRA adapter of a task; tasks without one are served by the model itself.
        engine: SGLang flags, with underscores; they override the file's `engine`.
    """

    name: PoolName
    model: str = Field(min_length=1)
    tasks: tuple[TaskName, ...] = ()
    gpus: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(default=None, min_length=1)
    adapters: dict[TaskName, str] = Field(default_factory=dict)
    engine: EngineFlags = Field(default_factory=dict)

    @property
    def served(self) -> tuple[str, ...]:
        """The tasks that it serves."""
        return self.tasks or tuple(self.adapters) or (self.name,)


class PeerFile(Strict):
    """A whole peer file. Once loaded, every task has one server, and all paths are absolute.

    Attributes:
        servers: the servers.
        engine: SGLang flags of all servers.
    """

    servers: Annotated[tuple[PeerServer, ...], Field(min_length=1)]
    engine: EngineFlags = Field(default_factory=dict)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks of all servers."""
        return tuple(task for server in self.servers for task in server.served)


def is_peer_file(content: Any) -> bool:
    """Return whether the content of a YAML file is that of a peer file, and not of a topology file."""
    return isinstance(content, Mapping) and "servers" in content


def load_peer_file(file: Path) -> PeerFile:
    """Read and check a peer file. Relative paths become absolute; they are relative to the file.

    Raises:
        TopologyError: the file cannot be read or is wrong; names the first problem by its YAML path.
    """
    try:
        peer = PeerFile.model_validate(parse_yaml(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as e:
        raise TopologyError(str(file), "cannot be read", "give the path of a peer file") from e
    except YamlError as e:
        raise TopologyError(e.where(str(file)), f"not valid YAML: {e.problem}") from e
    except ValidationError as e:
        field = first_invalid(e, PeerFile, show_value=True)
        raise TopologyError(field.where or "peer file", field.problem, field.fix) from e
    _check(peer)
    base = file.resolve().parent
    servers = tuple(_resolved(server, base, f"servers.{number}") for number, server in enumerate(peer.servers))
    return peer.model_copy(update={"servers": servers, "engine": resolve_flags(peer.engine, base, "engine")})


def plan_peer(peer: PeerFile, machine: Machine, run_dir: Path, schema: FlagSchema | None) -> ServersPlan:
    """Check everything of a peer file that can be checked before a start, and plan its servers.

    Args:
        peer: as loaded.
        machine: where they run.
        run_dir: directory for their logs.
        schema: the installed SGLang's flags; None leaves them unchecked.

    Raises:
        UserError: a flag or a model is wrong, or the machine has too few GPUs.
    """
    servers = {server.name: _settings(peer, number) for number, server in enumerate(peer.servers)}
    return plan_servers(servers, machine, run_dir=run_dir, schema=schema)


def _settings(peer: PeerFile, number: int) -> PoolSettings:
    server, where = peer.servers[number], f"servers.{number}"
    lora: EngineFlags = {}
    if server.adapters:
        paths = [f"{task}={path}" for task, path in server.adapters.items()]
        # a slot for each adapter, and one for requests without any
        lora = {"enable_lora": True, "lora_paths": paths, "max_loras_per_batch": len(paths) + 1}
    engines = {"engine": peer.engine, f"{where}.engine": server.engine}
    return server_settings(server.name, where, server.model, gpus=server.gpus, engines=engines, flags=lora)


def _resolved(server: PeerServer, base: Path, where: str) -> PeerServer:
    adapters = {}
    for task, path in server.adapters.items():
        resolved = resolve_model(path, base, f"{where}.adapters.{task}")
        if not (Path(resolved) / "adapter_config.json").is_file():
            raise TopologyError(
                f"{where}.adapters.{task}", f"{resolved} has no adapter_config.json", "give a LoRA adapter's directory"
            )
        adapters[task] = resolved
    changes = {
        "model": resolve_model(server.model, base, f"{where}.model"),
        "adapters": adapters,
        "engine": resolve_flags(server.engine, base, f"{where}.engine"),
    }
    return server.model_copy(update=changes)


def _check(peer: PeerFile) -> None:
    engines = [("engine", peer.engine), *((f"servers.{n}.engine", s.engine) for n, s in enumerate(peer.servers))]
    check_owned_flags(engines)
    for where, flags in engines:
        for key in flags:
            if key in _OWNED:
                raise TopologyError(f"{where}.{key}", _OWNED[key], "remove it")
    names, tasks = [server.name for server in peer.servers], peer.tasks
    for number, server in enumerate(peer.servers):
        if server.name in names[:number]:
            raise TopologyError(f"servers.{number}.name", f"`{server.name}` is the name of two servers")
        for task in server.adapters:
            if task not in server.served:
                raise TopologyError(
                    f"servers.{number}.adapters.{task}", "is no task of this server", "name it in `tasks` or remove it"
                )
    for task in tasks:
        if tasks.count(task) > 1:
            raise TopologyError("servers", f"task `{task}` is served twice", "give each task to one server")
