"""The adapters of a topology file: their paths, and the tasks that a directory of adapters stands for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from sun_sglang.errors import TopologyError, UserError
from sun_sglang.files.local_path import local_path
from sun_sglang.topology import AdapterDirectory, Task, TaskName, Topology

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_NAME: TypeAdapter[str] = TypeAdapter(TaskName)


def with_adapter_tasks(topology: Topology, base: Path) -> Topology:
    """Return a topology with a task for each adapter in its `adapters`, and with absolute paths of all adapters.

    The adapters themselves are read later (`launch/planning/adapters/`).

    Args:
        topology: as written.
        base: directory to which relative paths are relative.

    Raises:
        TopologyError: a directory cannot be read or holds no adapter, or a name is no name of a task or is given twice;
            names the YAML path.
    """
    tasks = {
        name: task.model_copy(update={"adapter": str(_path(task.adapter, base, f"tasks.{name}.adapter"))})
        if task.adapter is not None
        else task
        for name, task in topology.tasks.items()
    }
    resolved: list[AdapterDirectory] = []
    for i, entry in enumerate(topology.adapters):
        where = f"adapters.{i}.directory"
        directory = _path(entry.directory, base, where)
        for name, adapter in _adapters_in(directory, entry.prefix, where):
            if name in tasks:
                fix = "rename the directory or the task, or set another `prefix`"
                raise TopologyError(where, f"{adapter} is the task `{name}`, and another task has that name", fix)
            tasks[name] = Task(prefill=entry.prefill, decode=entry.decode, adapter=str(adapter))
        resolved.append(entry.model_copy(update={"directory": str(directory)}))
    return topology.model_copy(update={"tasks": tasks, "adapters": tuple(resolved)})


def _adapters_in(directory: Path, prefix: str, where: str) -> Iterator[tuple[str, Path]]:
    """Yield the task's name and the directory of each adapter in a directory, by name."""
    try:
        inside = sorted(directory.iterdir())
        found = [path for path in inside if (path / _CONFIG).is_file()]
        if lost := next((path for path in inside if path not in found and (path / _WEIGHTS).exists()), None):
            fix = "copy it again, or move it elsewhere"
            raise TopologyError(where, f"{lost}: holds {_WEIGHTS} and no {_CONFIG}: an adapter that is not whole", fix)
    except OSError as e:
        fix = "give the path of a directory with one directory for each adapter"
        raise TopologyError(where, f"{directory}: cannot be read ({e.strerror or e})", fix) from e
    if not found:
        fix = f"each directory in it with an `{_CONFIG}` is a task"
        if (directory / _CONFIG).is_file():
            fix = "it is an adapter itself: name it as the `adapter` of a task, or name the directory above it"
        raise TopologyError(where, f"{directory}: holds no directory of an adapter", fix)
    for path in found:
        name = f"{prefix}{path.name}"
        try:
            _NAME.validate_python(name)
        except ValidationError as e:
            fix = "rename it to letters, digits and `. _ : -`, with a letter or a digit first, or set a `prefix`"
            raise TopologyError(where, f"{path}: `{name}` is no name of a task", fix) from e
        yield name, path


def _path(text: str, base: Path, where: str) -> Path:
    try:
        return local_path(text, base)
    except UserError as e:
        raise TopologyError(where, str(e), "give the path of a directory") from e
