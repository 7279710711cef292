"""The context that the stages share: the device, a folder, random checkpoints and one deployment of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sun_sglang.bench.gpu_check.deployment import Deployment, launch
from sun_sglang.bench.gpu_check.errors import CheckError
from sun_sglang.bench.gpu_check.models.checkpoints import write_checkpoint
from sun_sglang.bench.gpu_check.models.reference import Reference

Device = Literal["cuda", "cpu"]
PAGE = 64
# tokens of KV; eight answers of 100 tokens do not fit: requests are retracted
_SMALL_KV = 640


@dataclass
class Context:
    """One run of the check.

    Attributes:
        device: where workers run.
        gpus: indices of the GPUs that may be used, as the driver counts them; empty on the CPU.
        work: folder for checkpoints, topologies and logs.
        engine: SGLang flags for every worker, beside those of the check.
        model: directory of a real checkpoint, for the latency stage; None to use a random one.
        progress: prints a line of progress.
        closing: closes what the stages share.
    """

    device: Device
    gpus: tuple[int, ...]
    work: Path
    engine: Mapping[str, Any]
    model: Path | None
    progress: Callable[[str], None]
    closing: ExitStack = field(default_factory=ExitStack)
    _core: Deployment | CheckError | None = None

    @property
    def dtype(self) -> str:
        """Return the workers' dtype: GPUs' attention kernels do not support float32; most CPUs multiply only that."""
        return "bfloat16" if self.device == "cuda" else "float32"

    def checkpoint(self, architecture: str, name: str, seed: int) -> Path:
        """Return the directory of a random checkpoint, and write it if it does not exist.

        Args:
            architecture: a key of `checkpoints.ARCHITECTURES`.
            name: names the directory.
            seed: seed of the weights.
        """
        path = self.work / "models" / f"{architecture}-{name}"
        if not path.exists():
            write_checkpoint(path, architecture, seed, self.dtype)
        return path

    def models(self, architecture: str) -> dict[str, Path]:
        """Return unrelated random checkpoints of one architecture: `base`, `a` and `b`."""
        return {name: self.checkpoint(architecture, name, seed) for seed, name in enumerate(("base", "a", "b"))}

    def pool(self, role: str, model: Path, gpus: Sequence[int] | None = None, **engine: Any) -> dict[str, Any]:
        """Return a pool of the topology file.

        Args:
            role: `prefill` or `decode`.
            model: directory of the checkpoint.
            gpus: GPUs of its workers; None: on GPUs all pools share the first one.
            engine: SGLang flags of its workers.
        """
        entry: dict[str, Any] = {"role": role, "model": str(model), "engine": engine}
        if self.device == "cuda":
            entry["gpus"] = list(gpus if gpus is not None else self.gpus[:1])
        return entry

    def launch(self, name: str, pools: Mapping[str, Any], tasks: Mapping[str, Any], **router: Any) -> Deployment:
        """Start a deployment; the caller closes it (`Deployment.close`).

        Args:
            name: names its files.
            pools: the topology's pools, from `pool`.
            tasks: the topology's tasks.
            router: router settings.
        """
        return launch(self.topology(pools, tasks, **router), self.work / name)

    def topology(self, pools: Mapping[str, Any], tasks: Mapping[str, Any], **router: Any) -> dict[str, Any]:
        """Return a topology file's content.

        Args:
            pools: the pools, from `pool`.
            tasks: the tasks.
            router: router settings.
        """
        engine: dict[str, Any] = {"dtype": self.dtype, "max_total_tokens": 16384}
        if self.device == "cuda":
            # several workers share a GPU, where `max_total_tokens` bounds each; no batch here is larger than 16
            engine |= {"mem_fraction_static": 0.4, "cuda_graph_max_bs_decode": 16, "cuda_graph_max_bs_prefill": 512}
        return {
            "pools": dict(pools),
            "tasks": dict(tasks),
            "engine": {**engine, **self.engine},
            "router": {"port": 0, **router},
        }

    @property
    def core(self) -> Deployment:
        """Return the deployment that most stages share; the first access starts it.

        Raises:
            CheckError: it does not start, or did not start for an earlier stage.
        """
        if isinstance(self._core, CheckError):
            raise CheckError("the deployment that most stages share did not start: see the first of them")
        if self._core is None:
            try:
                self._core = self._launch_core()
            except CheckError as e:
                self._core = e
                raise
            self.closing.callback(self._core.close)
        return self._core

    def _launch_core(self) -> Deployment:
        """Start Llama with two tasks, with pages of 64 tokens and with little KV memory; and Qwen3."""
        llama, qwen = self.models("llama"), self.models("qwen3")
        pools = {
            "llama-base": self.pool("decode", llama["base"]),
            "llama-a": self.pool("prefill", llama["a"]),
            "llama-b": self.pool("prefill", llama["b"]),
            "small": self.pool("decode", llama["base"], max_total_tokens=_SMALL_KV, num_reserved_decode_tokens=8),
            "pages-a": self.pool("prefill", llama["a"], page_size=PAGE),
            "pages-base": self.pool("decode", llama["base"], page_size=PAGE),
            "qwen3-base": self.pool("decode", qwen["base"]),
            "qwen3-a": self.pool("prefill", qwen["a"]),
        }
        tasks = {
            "llama-a": {"prefill": "llama-a", "decode": "llama-base"},
            "llama-b": {"prefill": "llama-b", "decode": "llama-base"},
            "small": {"prefill": "llama-a", "decode": "small"},
            "pages": {"prefill": "pages-a", "decode": "pages-base"},
            "qwen3-a": {"prefill": "qwen3-a", "decode": "qwen3-base"},
        }
        return self.launch("core", pools, tasks)

    def reference(self, architecture: str, name: str) -> Reference:
        """Return the expected answers of a task that prefills with a module and decodes with `base`."""
        models = self.models(architecture)
        return Reference(models[name], models["base"], self.device, self.dtype)
