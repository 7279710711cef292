"""A running deployment of SGLang workers, and a client of it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import yaml
from prometheus_client.parser import text_string_to_metric_families

from sun_sglang.bench.gpu_check.errors import CheckError, require
from sun_sglang.bench.processes import run_sun
from sun_sglang.launch.router_access import worker_headers
from sun_sglang.launch.state import DeploymentState, Phase, ProcessState, read_state

_READY_TIMEOUT = 300
_REQUEST_TIMEOUT = 120
_LOG_LINES = 40
# fields of SGLang's `/v1/loads` that are 0 on an idle worker; the queues are in its section `disaggregation`
_WORK = (
    "num_running_reqs",
    "num_waiting_reqs",
    "num_used_tokens",
    "prefill_bootstrap_queue_reqs",
    "prefill_inflight_queue_reqs",
    "decode_prealloc_queue_reqs",
    "decode_transfer_queue_reqs",
    "decode_retracted_queue_reqs",
)


@dataclass(frozen=True)
class Deployment:
    """A deployment that `sun launch` started.

    Attributes:
        run_dir: folder of its logs and state.
    """

    run_dir: Path

    @property
    def state(self) -> DeploymentState:
        """Return the state that the launcher wrote last."""
        state = read_state(self.run_dir)
        assert state is not None, "launched"
        return state

    def process(self, name: str) -> ProcessState:
        """Return a worker's state."""
        return next(p for p in self.state.processes if p.name == name)

    def log(self, name: str) -> str:
        """Return a worker's whole log."""
        return (self.run_dir / "logs" / f"{name}.log").read_text(errors="replace")

    def close(self) -> None:
        """Stop the deployment at once; do nothing if it has ended.

        Raises:
            CheckError: `sun stop` failed; workers may still run.
        """
        if self.state.alive:
            done = run_sun("stop", "--run-dir", str(self.run_dir), "--now")
            require(done.returncode == 0, f"`sun stop` failed: {done.stdout}{done.stderr}")

    @asynccontextmanager
    async def client(self, url: str | None = None) -> AsyncIterator[Client]:
        """Open a client of the workers and of the router, or of the router at another URL."""
        timeout = aiohttp.ClientTimeout(total=_REQUEST_TIMEOUT)
        headers = worker_headers(self.run_dir)
        # a worker closes an idle connection after five seconds, perhaps while the next request is sent on it
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(timeout=timeout, headers=headers, connector=connector) as session:
            yield Client(self, session, url or self.state.url)


def launch(topology: Mapping[str, Any], folder: Path) -> Deployment:
    """Start a deployment and return it once it is ready.

    Args:
        topology: content of the topology file.
        folder: for its file and its logs.

    Raises:
        CheckError: it does not start; the message holds the ends of its logs.
    """
    file = write_topology(topology, folder)
    run_dir = folder / "run"
    files = ("--detach", "--run-dir", str(run_dir), "--ready-timeout", str(_READY_TIMEOUT))
    done = run_sun("launch", str(file), *files)
    if done.returncode != 0:
        # the command's output comes last: it ends with the log of the worker that did not start
        raise CheckError(f"`sun launch` failed:\n{log_ends(run_dir)}\n--- sun launch\n{done.stdout}{done.stderr}")
    return Deployment(run_dir)


def write_topology(topology: Mapping[str, Any], folder: Path) -> Path:
    """Write a topology file into a folder and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "sun.yaml"
    file.write_text(yaml.safe_dump(dict(topology), sort_keys=False))
    return file


def log_ends(run_dir: Path) -> str:
    """Return the last lines of the logs of a deployment's processes."""
    files = sorted((run_dir / "logs").glob("*.log"))
    ends = [(f.name, f.read_text(errors="replace").splitlines()[-_LOG_LINES:]) for f in files]
    return "\n".join(f"--- {name}\n" + "\n".join(lines) for name, lines in ends)


@dataclass(frozen=True)
class Client:
    """A client of a deployment's router and, past the router, of its workers."""

    deployment: Deployment
    session: aiohttp.ClientSession
    router: str

    async def generate(self, task: str, prompt: Sequence[int], length: int, **fields: Any) -> dict[str, Any]:
        """Return a greedy answer of a fixed length, through the router's `/generate`.

        Args:
            task: name of the task.
            prompt: token ids.
            length: tokens of the answer.
            fields: other fields of the request.

        Raises:
            CheckError: the router answers with an error.
        """
        url = f"{self.router}/generate"
        async with self.session.post(url, json=request_body(task, prompt, length, **fields)) as reply:
            if reply.status != 200:
                raise CheckError(f"task `{task}`: {reply.status} {await reply.text()}")
            return dict(await reply.json())

    async def stream(self, task: str, prompt: Sequence[int], length: int) -> AsyncGenerator[dict[str, Any]]:
        """Yield the chunks of a streamed greedy answer; closing the iterator ends the request.

        Args:
            task: name of the task.
            prompt: token ids.
            length: tokens of the answer.

        Raises:
            CheckError: the router answers with an error, or the stream holds one.
        """
        url = f"{self.router}/generate"
        async with self.session.post(url, json=request_body(task, prompt, length, stream=True)) as reply:
            if reply.status != 200:
                raise CheckError(f"task `{task}`: {reply.status} {await reply.text()}")
            async for line in reply.content:
                data = line.removeprefix(b"data:").strip()
                if line.startswith(b"data:") and data != b"[DONE]":
                    chunk = orjson.loads(data)
                    if "error" in chunk:
                        raise CheckError(f"task `{task}`: the stream ends with {chunk['error']}")
                    yield chunk

    async def loads(self, worker: str) -> list[dict[str, Any]]:
        """Return a worker's load, one entry for each rank (SGLang: `GET /v1/loads`)."""
        async with self.session.get(f"{self.deployment.process(worker).url}/v1/loads") as reply:
            return list((await reply.json())["loads"])

    async def metric(self, worker: str, name: str) -> float:
        """Return a metric of a worker's metrics page, summed over its labels; 0 where the page lacks it."""
        async with self.session.get(f"{self.deployment.process(worker).url}/metrics/") as reply:
            page = await reply.text()
        samples = (sample for family in text_string_to_metric_families(page) for sample in family.samples)
        return sum(sample.value for sample in samples if sample.name == name)

    async def server_info(self, worker: str) -> dict[str, Any]:
        """Return a worker's settings as SGLang resolved them (SGLang: `GET /server_info`)."""
        async with self.session.get(f"{self.deployment.process(worker).url}/server_info") as reply:
            return dict(await reply.json())

    async def prefill_worker(self, task: str) -> str:
        """Return the name of the first worker of a task's prefill pool."""
        async with self.session.get(f"{self.router}/tasks") as reply:
            return str((await reply.json())["tasks"][task]["prefill"]["workers"][0]["name"])

    async def flush_cache(self, worker: str) -> None:
        """Empty a worker's radix cache.

        Raises:
            CheckError: its requests do not end within 20 s.
        """
        url = f"{self.deployment.process(worker).url}/flush_cache"
        async with self.session.post(url, params={"timeout": 20}) as reply:
            if reply.status != 200:
                raise CheckError(f"{worker}: /flush_cache answers {reply.status} {await reply.text()}")

    async def all_paths_proven(self) -> bool:
        """Return whether the router has proven every path of every task."""
        with contextlib.suppress(aiohttp.ClientError):
            async with self.session.get(f"{self.router}/tasks") as reply:
                tasks = (await reply.json())["tasks"].values()
            return all(
                len(task["paths"]) == len(task["prefill"]["workers"]) * len(task["decode"]["workers"]) for task in tasks
            )
        return False

    async def is_whole(self) -> bool:
        """Return whether every process runs and every path is proven."""
        return await self.all_paths_proven() and all(p.phase == Phase.RUNNING for p in self.deployment.state.processes)


def unfinished_work(load: Mapping[str, Any]) -> dict[str, int]:
    """Return the fields of one rank's load that are 0 on an idle rank."""
    return {name: load.get(name, load["disaggregation"].get(name)) for name in _WORK}


def request_body(task: str, prompt: Sequence[int], length: int, **fields: Any) -> dict[str, Any]:
    """Return the body of a greedy `/generate` request for an answer of a fixed length.

    Args:
        task: name of the task.
        prompt: token ids.
        length: tokens of the answer.
        fields: other fields of the request.
    """
    sampling = {"temperature": 0, "max_new_tokens": length, "ignore_eos": True}
    return {"model": task, "input_ids": list(prompt), "sampling_params": sampling, **fields}
