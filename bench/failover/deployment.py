"""The deployment of the benchmarks of failover: real SGLang workers over small random models, and how it loses one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from sun_sglang.bench.gpu_check.deployment import Deployment, launch
from sun_sglang.bench.gpu_check.models.checkpoints import write_checkpoint
from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.contracts.module_file import ModuleFile, write_module_file
from sun_sglang.cpu import define_torchvision_schemas

Loss = Literal["killed", "stopped", "port closed"]
LOSSES: tuple[Loss, ...] = ("killed", "stopped", "port closed")
DECODERS = ("base-0", "base-1")
# with failover; `TASK-off` is the same task without
TASKS = ("math", "tool", "last")
SIZES: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "head_dim": 32,
    "max_position_embeddings": 2048,
    # large weights: logits are far apart
    "initializer_range": 0.2,
}


@contextmanager
def launched(folder: Path) -> Iterator[Deployment]:
    """Launch three prefill workers and two decode workers; stop them with the context.

    The decode module makes the first token of `last`.

    Args:
        folder: for models, files and logs.

    Raises:
        CheckError: a worker does not start, or `sun stop` fails.
    """
    define_torchvision_schemas()
    for seed, name in enumerate(("base", *TASKS)):
        write_checkpoint(folder / name, "llama", seed, "float32", **SIZES)
    decoder = weights_revision(folder / "base")
    record = ModuleFile(scheme="prefill_only", base=decoder, decoder=decoder, first_token="decode")
    write_module_file(record, folder / "last")
    tasks = {name: {"prefill": name, "decode": "base"} for name in TASKS}
    topology = {
        "pools": {
            "base": {"role": "decode", "model": str(folder / "base"), "replicas": len(DECODERS)},
            **{name: {"role": "prefill", "model": str(folder / name)} for name in TASKS},
        },
        "tasks": tasks | {f"{name}-off": task | {"failover": False} for name, task in tasks.items()},
        "engine": {"dtype": "float32", "max_total_tokens": 32768, "tool_call_parser": "llama3"},
        "router": {"port": 0},
    }
    deployment = launch(topology, folder)
    try:
        yield deployment
    finally:
        deployment.close()


def lose(deployment: Deployment, worker: str, loss: Loss) -> Callable[[], None]:
    """Lose a worker, and return a function that ends what does not end by itself.

    Args:
        deployment: the deployment, whose launcher starts a worker again whose process has ended.
        worker: name of the worker.
        loss: `killed`: SIGKILL to all of its processes. `stopped`: SIGSTOP to all of them. `port closed`: SIGKILL to
            its HTTP server alone; its scheduler ends once it notices.
    """
    pid = deployment.process(worker).pid
    group = os.getpgid(pid)
    match loss:
        case "killed":
            os.killpg(group, signal.SIGKILL)
        case "port closed":
            os.kill(pid, signal.SIGKILL)
        case "stopped":
            os.killpg(group, signal.SIGSTOP)
            return lambda: os.killpg(group, signal.SIGCONT)
    return lambda: None
