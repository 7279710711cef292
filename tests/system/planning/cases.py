"""The topologies whose plans are resolved: every example in `configs/`, and one of each kind for every model."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from sun_sglang.launch.places.local.place import example_commands
from sun_sglang.launch.planning.flags.flag_schema import FlagSchema
from sun_sglang.launch.planning.hardware.machine import detect_machine
from sun_sglang.launch.planning.plan import LaunchPlan
from sun_sglang.launch.planning.planner import make_plan
from sun_sglang.launch.planning.preflight import preflight
from sun_sglang.packed_weights.checkpoint import packed_format
from sun_sglang.topology import Role
from sun_sglang.topology_file import parse_topology
from tests.conftest import safetensors
from tests.engine.precision import precision_of
from tests.system.planning.faked_gpu import GPUS, install_nvidia_smi
from tests.unit.launch.planning.test_configs import CONFIGS as EXAMPLES
from tests.unit.launch.planning.test_configs import TOPOLOGIES

CONFIGS = Path(__file__).with_name("configs")
MODELS = tuple(sorted(file.stem for file in CONFIGS.glob("*.json")))


@dataclass(frozen=True)
class Case:
    """One topology on one kind of GPU.

    Attributes:
        name: unique.
        gpu: a key of `GPUS`.
        topology: the file's content; a pool's model is a directory, or one of `MODELS`, or `MODEL@WEIGHTS`.
        base: directory that its relative paths start from.
    """

    name: str
    gpu: str
    topology: dict[str, Any]
    base: Path = EXAMPLES


def pair(prefill: str, decode: str, engine: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a topology of one task."""
    return {
        "pools": {
            "prefill": {"role": "prefill", "model": prefill},
            "decode": {"role": "decode", "model": decode},
        },
        "tasks": {"task": {"prefill": "prefill", "decode": "decode"}},
        "engine": engine or {},
    }


def examples() -> Iterator[Case]:
    """Yield every topology in `configs/`, with a model of ours in the place of each published one."""
    for file in TOPOLOGIES:
        topology = yaml.safe_load(file.read_text())
        # emulated workers take no GPU, and the examples of these directories compare dtypes on CPUs
        if topology.get("backend") == "emulated" or file.parent.name in {"bfloat16", "four_bit"}:
            continue
        # examples for CPUs: their files direct the reader to remove it on GPUs
        if topology.get("engine", {}).get("dtype") == "float32":
            del topology["engine"]["dtype"]
        # adapters fit their own base alone: the pool of this model accepts them, and has none yet
        for directory in topology.pop("adapters", ()):
            topology["pools"][directory["prefill"]].setdefault("engine", {})["enable_lora"] = True
        for pool in topology["pools"].values():
            if not pool["model"].startswith("./"):
                pool["model"] = f"{'llama' if 'llama' in pool['model'].lower() else 'qwen3'}@{pool['model']}"
        yield Case(str(file.relative_to(EXAMPLES)), "h100", topology, file.parent)


CASES = {
    case.name: case
    for case in (
        *(Case(f"{gpu}-{m}", gpu, pair(f"{m}@tuned", m)) for gpu, m in itertools.product(GPUS, MODELS)),
        *(Case(f"isolated-{m}", "h100", pair(m, m)) for m in MODELS),
        Case("engine tests", "h100", pair("qwen3@tuned", "qwen3", {"dtype": precision_of(gpu=True).dtype})),
        *examples(),
    )
}


def make(case: Case, directory: Path, schema: FlagSchema) -> LaunchPlan:
    """Make the plan that `sun launch` makes of a case, on a machine with eight of its GPUs and NIXL."""
    pools = {
        name: pool | {"model": _model(pool["model"], directory / "models")}
        for name, pool in case.topology["pools"].items()
    }
    topology = parse_topology(yaml.safe_dump(case.topology | {"pools": pools}, sort_keys=False), base=case.base)
    with pytest.MonkeyPatch.context() as patch:
        install_nvidia_smi(directory / "bin", GPUS[case.gpu], count=8)
        patch.setenv("PATH", f"{directory / 'bin'}{os.pathsep}{os.environ['PATH']}")
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        machine = detect_machine().model_copy(update={"rdma": (), "transfer_packages": frozenset({"nixl"})})
    assert [g.name for g in machine.gpus] == 8 * [GPUS[case.gpu].name]
    found = preflight(topology, machine, schema)
    return make_plan(topology, machine, found.pools, run_dir=directory, router_port=8000, schema=schema)


def workers(plan: LaunchPlan, topology: dict[str, Any]) -> dict[Role, tuple[str, ...]]:
    """Return the command lines of a prefill and a decode worker of the topology's first task."""
    task = next(iter(topology["tasks"].values()))
    pairs = zip(plan.workers, example_commands(plan.workers), strict=True)
    first = {worker.pool: command.argv for worker, command in reversed(list(pairs))}
    return {"prefill": first[task["prefill"]], "decode": first[task["decode"]]}


def _model(model: str, directory: Path) -> str:
    """Write what a checkpoint has beside its weights, unless the model is in `configs/`: a configuration and stubs."""
    architecture, _, weights = model.partition("@")
    if architecture not in MODELS:
        return model
    config = json.loads((CONFIGS / f"{architecture}.json").read_text())
    if "W4A16" in weights:
        config["quantization_config"] = packed_format(4, 128)
    place = directory / re.sub(r"\W", "-", model)
    if not place.exists():
        place.mkdir(parents=True)
        (place / "config.json").write_text(json.dumps(config))
        (place / "tokenizer.json").write_text("{}")
        (place / "model.safetensors").write_bytes(safetensors({"embed": weights.encode()}))
    return str(place)
