"""Read a topology file: parse it, check what its model cannot express, and make its paths absolute.

Imports no engine, so that `sun check` and the router run where SGLang is not installed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from sun_sglang.adapter_tasks import with_adapter_tasks
from sun_sglang.errors import TopologyError, UserError
from sun_sglang.files.local_path import STARTS, local_path
from sun_sglang.http_application import OTHER_SERVER_FLAGS
from sun_sglang.strict import YamlError, first_invalid, listed, parse_yaml
from sun_sglang.topology import Emulation, EngineFlags, Router, Topology

_LAUNCHER = "is set by the launcher"
_PLAIN_HTTP = "is not supported: the router reaches its workers over plain HTTP and without a key"
_PAIRED = "would change a worker's role, which its pool sets"
_OWNED_FLAGS = {
    **dict.fromkeys(("model_path", "model", "revision"), "is set by the pool's `model` and `revision`"),
    **dict.fromkeys(("host", "port", "nccl_port", "served_model_name", "disaggregation_bootstrap_port"), _LAUNCHER),
    **dict.fromkeys(("base_gpu_id", "gpu_id_step"), "is set by the launcher; a pool's `gpus` chooses GPUs"),
    **dict.fromkeys(("disaggregation_mode", "enable_pd_role_switch", "encoder_only", "language_only"), _PAIRED),
    **dict.fromkeys(("node_rank", "dist_init_addr", "nccl_init_addr"), _LAUNCHER),
    **dict.fromkeys(("api_key", "admin_api_key", "ssl_keyfile", "ssl_certfile", "fastapi_root_path"), _PLAIN_HTTP),
    **OTHER_SERVER_FLAGS,
    "config": "would hide flags from these checks; write them here",
}
# Flags that name a file or a directory. `chat_template` may also name a template of SGLang, and `tokenizer_path` a hub
# id.
_PATH_FLAGS = ("chat_template", "quantization_param_path", "tokenizer_path")


def load_topology(path: Path) -> Topology:
    """Read and check a topology file.

    Relative paths become absolute; they are relative to the file. A `model` is a path if it starts with `.`, `/` or
    `~`, or if it exists relative to the file. Any other `model` stays a Hugging Face id.

    Raises:
        TopologyError: the file cannot be read or is wrong; names the first problem by its YAML path.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as e:
        raise TopologyError(str(path), f"cannot be read ({e.strerror or e})", "give the path of a topology file") from e
    except UnicodeDecodeError as e:
        raise TopologyError(str(path), "is not UTF-8 text", "give the path of a topology file") from e
    return parse_topology(text, base=path.parent, source=str(path))


def parse_topology(text: str, *, base: Path, source: str = "topology") -> Topology:
    """Check the text of a topology file, as `load_topology` does.

    Args:
        text: the YAML text.
        base: directory to which relative paths are relative.
        source: name of the text in errors about its syntax.

    Raises:
        TopologyError: the text is wrong; names the first problem by its YAML path.
    """
    try:
        raw = parse_yaml(text)
    except YamlError as e:
        raise TopologyError(e.where(source), f"not valid YAML: {e.problem}") from e
    if not isinstance(raw, dict):
        raise TopologyError(source, "has no keys", "start with `pools:` and `tasks:`")
    try:
        topology = Topology.model_validate(raw)
    except ValidationError as e:
        field = first_invalid(e, Topology, show_value=True)
        # somebody may have written the keys themselves, which no terminal is to show
        if field.path[:2] == ("router", "api_keys"):
            raise TopologyError(field.where, "is no path", "give the path of a file of keys") from e
        if field.path == ("router",):
            raise TopologyError("router", "is no mapping of settings", "write it as `router: {port: 8000}`") from e
        raise TopologyError(field.where or "topology", field.problem, field.fix) from e
    topology = with_adapter_tasks(topology, base)
    if not topology.tasks:
        raise TopologyError("tasks", "names no task", "name one, such as `math: {prefill: math, decode: base}`")
    _check_references(topology)
    check_owned_flags(topology.engines())
    _check_backends(topology)
    pools = {
        name: pool.model_copy(
            update={
                "model": resolve_model(pool.model, base, f"pools.{name}.model"),
                "engine": resolve_flags(pool.engine, base, f"pools.{name}.engine"),
                "emulated": pool.emulated and _resolve_costs(pool.emulated, base),
            }
        )
        for name, pool in topology.pools.items()
    }
    tasks = {
        name: task.model_copy(update={"model": resolve_model(task.model, base, f"tasks.{name}.model")})
        if task.model is not None
        else task
        for name, task in topology.tasks.items()
    }
    emulated, router = _resolve_costs(topology.emulated, base), _resolve_files(topology.router, base)
    engine = resolve_flags(topology.engine, base, "engine")
    scaled = tuple(
        one.model_copy(update={"costs": str(_path(one.costs, base, f"autoscale.{i}.costs"))})
        if one.costs is not None
        else one
        for i, one in enumerate(topology.autoscale)
    )
    changed = {
        "pools": pools,
        "tasks": tasks,
        "engine": engine,
        "emulated": emulated,
        "router": router,
        "autoscale": scaled,
    }
    return topology.model_copy(update=changed)


def resolve_flags(flags: EngineFlags, base: Path, where: str) -> EngineFlags:
    """Return SGLang flags with the paths made absolute that are relative to the file.

    Args:
        flags: as written.
        base: directory of the file.
        where: their YAML path.

    Raises:
        TopologyError: a path does not exist.
    """
    given = {name: flags[name] for name in _PATH_FLAGS if isinstance(flags.get(name), str)}
    resolved = {name: resolve_model(value, base, f"{where}.{name}") for name, value in given.items()}
    for name, path in resolved.items():
        if Path(path).is_absolute() and not Path(path).exists():
            raise TopologyError(
                f"{where}.{name}", f"{path} does not exist", "give a path relative to the topology file"
            )
    return {**flags, **resolved}


def _resolve_files(router: Router, base: Path) -> Router:
    if (router.tls_cert is None) != (router.tls_key is None):
        missing = "tls_key" if router.tls_key is None else "tls_cert"
        raise TopologyError(f"router.{missing}", "is required", "a certificate and its key go together")
    names = ("api_keys", "tls_cert", "tls_key")
    given = {name: getattr(router, name) for name in names if getattr(router, name) is not None}
    return router.model_copy(update={name: str(_path(p, base, f"router.{name}")) for name, p in given.items()})


def _resolve_costs(emulation: Emulation, base: Path) -> Emulation:
    if emulation.costs is None:
        return emulation
    return emulation.model_copy(update={"costs": str(_path(emulation.costs, base, "emulation.costs"))})


def _check_backends(topology: Topology) -> None:
    """Raise unless the two pools of each task have one backend: only an emulated worker can use emulated KV."""
    for name, task in topology.tasks.items():
        kinds = {pool: topology.backend_of(pool) for pool in (task.prefill, task.decode)}
        if len(set(kinds.values())) > 1:
            raise TopologyError(f"tasks.{name}", f"its pools have different backends: {kinds}", "give both the same")


def resolve_model(model: str, base: Path, where: str) -> str:
    """Return a model's directory, absolute, or its Hugging Face id unchanged.

    Args:
        model: as written.
        base: directory to which relative paths are relative.
        where: its YAML path.

    Raises:
        TopologyError: it is no path.
    """
    candidate = _path(model, base, where, "give a directory or a Hugging Face id")
    try:
        exists = candidate.exists()
    except OSError as e:  # a name too long
        raise TopologyError(where, f"{model!r} is not a path ({e})", "give a directory or a Hugging Face id") from e
    return str(candidate) if exists or model.startswith(STARTS) else model


def _path(text: str, base: Path, where: str, fix: str = "") -> Path:
    try:
        return local_path(text, base)
    except UserError as e:
        raise TopologyError(where, str(e), fix) from e


def _check_references(topology: Topology) -> None:
    for name, task in topology.tasks.items():
        for role, pool in (("prefill", task.prefill), ("decode", task.decode)):
            where = f"tasks.{name}.{role}"
            if pool not in topology.pools:
                raise TopologyError(where, f"no pool is named `{pool}`", f"pools: {listed(topology.pools)}")
            actual = topology.pools[pool].role
            if actual != role:
                candidates = [n for n, p in topology.pools.items() if p.role == role]
                raise TopologyError(where, f"pool `{pool}` is a {actual} pool", f"{role} pools: {listed(candidates)}")
        if task.adapter is not None and task.model is not None:
            problem = "is given beside `adapter`: an adapter is one of the pool's model"
            raise TopologyError(f"tasks.{name}.model", problem, "remove one of the two, or merge the adapter")
    _check_autoscale(topology)
    for name, settings in topology.pools.items():
        if not topology.tasks_of(name):
            raise TopologyError(f"pools.{name}", "no task uses this pool", "name it in a task or remove it")
        if settings.modules is not None and settings.role != "prefill":
            raise TopologyError(f"pools.{name}.modules", "is for prefill pools: decode workers share one", "remove it")


def _check_autoscale(topology: Topology) -> None:
    decode = [name for name, pool in topology.pools.items() if pool.role == "decode"]
    seen: set[str] = set()
    for i, scaled in enumerate(topology.autoscale):
        where = f"autoscale.{i}"
        if scaled.pool not in decode:
            problem = "is a prefill pool" if scaled.pool in topology.pools else "is no pool of this file"
            raise TopologyError(f"{where}.pool", f"`{scaled.pool}` {problem}", f"decode pools: {listed(decode)}")
        if scaled.pool in seen:
            raise TopologyError(f"{where}.pool", f"`{scaled.pool}` is given twice", "remove one of the two")
        seen.add(scaled.pool)
        replicas = topology.pools[scaled.pool].replicas
        if replicas > scaled.max:
            problem = f"{replicas} is more than the `max` {scaled.max} of `{where}`"
            raise TopologyError(f"pools.{scaled.pool}.replicas", problem, "lower it, or raise `max`")


def check_owned_flags(sources: Iterable[tuple[str, EngineFlags]]) -> None:
    """Raise if the `engine` of a file has a flag that is not written as SGLang has it, or that the launcher sets.

    Args:
        sources: the YAML path of each `engine`, and its flags.

    Raises:
        TopologyError: names the first such flag.
    """
    for where, flags in sources:
        for key in flags:
            if not re.fullmatch(r"[a-z0-9_]+", key):
                fixed = key.lstrip("-").replace("-", "_")
                raise TopologyError(f"{where}.{key}", "is not how a flag is written here", f"write `{fixed}`")
            if key in _OWNED_FLAGS:
                raise TopologyError(f"{where}.{key}", _OWNED_FLAGS[key], "remove it")
