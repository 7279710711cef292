"""One deployment of real SGLang servers for all tests here, and the reference with which its answers are compared."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from sun_sglang.bench.gpu_check.models.checkpoints import BYTE_VOCABULARY, write_checkpoint
from sun_sglang.bench.processes import run_sun
from sun_sglang.checkpoint.weights import weights_revision
from sun_sglang.contracts.module_file import ModuleFile, write_module_file
from sun_sglang.contracts.scheme import Side
from sun_sglang.contracts.worker_key import bearer
from sun_sglang.launch.planning.plan import WORKER_KEY
from sun_sglang.launch.state import DeploymentState, ProcessState, read_state
from tests.engine.adapters import adapted, write_task_adapters
from tests.engine.demo_topology import with_comparisons
from tests.engine.four_bit import dense_copy, write_four_bit
from tests.engine.precision import FOUR_BIT, PRECISION, Precision
from tests.support.sglang_questions import ask_sglang

# pytest finds fixtures by their names here
__all__ = ["ask_sglang"]

# seconds that an answer may take while other tests start twenty servers on the same cores
BUSY = 300

# workers that accept LoRA adapters: those of tasks, and others that tests load; one slot is the base's
ADAPTERS: dict[str, Any] = {
    "enable_lora": True,
    "lora_backend": "torch_native",
    "lora_target_modules": ["all"],
    "max_lora_rank": 8,
    "max_loras_per_batch": 3,
}
TOPOLOGY: dict[str, Any] = {
    "pools": {
        "llama-base": {"role": "decode", "model": "./llama-base"},
        "llama-a": {"role": "prefill", "model": "./llama-a"},
        "llama-b": {"role": "prefill", "model": "./llama-b"},
        # the same weights as llama-a: tests of faults run a router of their own over both
        "spare-a": {"role": "prefill", "model": "./llama-a", "engine": ADAPTERS},
        # null: SGLang's own cache, which keeps generated tokens too
        "stock": {"role": "decode", "model": "./llama-base", "engine": {"radix_cache_backend": None}},
        "uncached": {
            "role": "decode",
            "model": "./llama-base",
            "engine": {"disaggregation_decode_enable_radix_cache": False, **ADAPTERS},
        },
        # eight answers of a hundred tokens do not fit
        "small": {
            "role": "decode",
            "model": "./llama-base",
            "engine": {"max_total_tokens": 640, "num_reserved_decode_tokens": 8},
        },
        # the very weights that decode: on `stock` one module does both, on `llama-base` others share the decoder
        "own": {"role": "prefill", "model": "./llama-base"},
        "pages-a": {"role": "prefill", "model": "./llama-a", "engine": {"page_size": 16}},
        "pages-base": {"role": "decode", "model": "./llama-base", "engine": {"page_size": 16}},
        "qwen3-base": {"role": "decode", "model": "./qwen3-base", "replicas": 2},
        "qwen3-a": {"role": "prefill", "model": "./qwen3-a", "engine": {"enable_metrics": True}},
        "qwen3-b": {"role": "prefill", "model": "./qwen3-b"},
        # modules tuned for a first token from the decode module: a prefill module, and decode modules
        # prompts of more than 32 tokens are prefilled in several steps
        "last-b": {"role": "prefill", "model": "./llama-last-b", "engine": {"chunked_prefill_size": 32}},
        "pages-share": {"role": "decode", "model": "./llama-share-b", "engine": {"page_size": 16}},
        "qwen3-share": {"role": "decode", "model": "./qwen3-share-a"},
        "four-bit": {"role": "decode", "model": "./llama-four-bit"},
    },
    "tasks": {
        "llama-a": {"prefill": "llama-a", "decode": "llama-base"},
        "llama-b": {"prefill": "llama-b", "decode": "llama-base"},
        "stock": {"prefill": "llama-a", "decode": "stock"},
        "uncached": {"prefill": "llama-a", "decode": "uncached"},
        "twin": {"prefill": "llama-a", "decode": "llama-base"},
        "own": {"prefill": "own", "decode": "stock"},
        "mixed": {"prefill": "own", "decode": "llama-base"},
        "spare": {"prefill": "spare-a", "decode": "uncached"},
        "small": {"prefill": "llama-a", "decode": "small"},
        "pages": {"prefill": "pages-a", "decode": "pages-base"},
        "qwen3-a": {"prefill": "qwen3-a", "decode": "qwen3-base"},
        "qwen3-b": {"prefill": "qwen3-b", "decode": "qwen3-base"},
        "last": {"prefill": "last-b", "decode": "llama-base"},
        "last-small": {"prefill": "last-b", "decode": "small"},
        "last-uncached": {"prefill": "last-b", "decode": "uncached"},
        "pages-share": {"prefill": "pages-a", "decode": "pages-share"},
        "qwen3-share": {"prefill": "qwen3-b", "decode": "qwen3-share"},
        "four-bit": {"prefill": "llama-a", "decode": "four-bit"},
        # adapters on one prefill pool, and its bare base (`adapters.py`)
        "bare": {"prefill": "spare-a", "decode": "llama-base"},
        "adapter-all": {"prefill": "spare-a", "decode": "llama-base", "adapter": "./adapter-all"},
        "adapter-part": {"prefill": "spare-a", "decode": "llama-base", "adapter": "./adapter-part"},
        "adapter-last": {"prefill": "spare-a", "decode": "llama-base", "adapter": "./adapter-last"},
    },
    "engine": {"dtype": PRECISION.dtype, "max_total_tokens": 16384, "tool_call_parser": "llama3"},
    "router": {
        "port": 0,
        "first_token_timeout": BUSY,
        "max_body_mb": 4,
        "allow": ["regex", "ebnf"],
        # each load report wakes an idle scheduler, and this deployment has twenty; other deployments and the routers of
        # single tests have the default
        "load_interval": 5,
    },
}

# tasks whose first token the decode module makes
DECODE_FIRST = ("last", "last-small", "last-uncached", "pages-share", "qwen3-share", "adapter-last")
# tasks that wait while the workers of `spare-a` are gone
ON_SPARE = tuple(name for name, task in TOPOLOGY["tasks"].items() if task["prefill"] == "spare-a")

# small, with initial weights that are large enough that logits are far apart
SIZES: dict[str, Any] = {
    "vocab_size": BYTE_VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 384,
    "head_dim": 32,
    "max_position_embeddings": 2048,
    "initializer_range": 0.2,
}
# fixtures of deployments that several files share
_SHARED = ("deployment", "demo")
# how many tests of each shared deployment are still to come
_USERS = pytest.StashKey[Counter[str]]()


@dataclass(frozen=True)
class Deployment:
    """A running deployment: its router, and its state at the launcher."""

    run_dir: Path

    @property
    def state(self) -> DeploymentState:
        state = read_state(self.run_dir)
        assert state is not None
        return state

    @property
    def url(self) -> str:
        return self.state.url

    @property
    def key(self) -> str:
        """The worker key."""
        return (self.run_dir / WORKER_KEY).read_text()

    @property
    def headers(self) -> dict[str, str]:
        """Headers of a request to a worker that bypasses the router."""
        return bearer(self.key)

    def process(self, name: str) -> ProcessState:
        return next(p for p in self.state.processes if p.name == name)


# seconds until a launch counts as one that hangs
LAUNCH = 240
_LAUNCHED = pytest.StashKey[dict[str, Deployment]]()


def launch(topology: Path, run_dir: Path, *arguments: str, within: float = LAUNCH) -> Deployment:
    """Run `sun launch --detach`, as a user would.

    Args:
        topology: a topology file.
        run_dir: directory of its state.
        arguments: further options.
        within: seconds until the launch counts as one that hangs.
    """
    try:
        done = run_sun("launch", str(topology), "--detach", "--run-dir", str(run_dir), *arguments, timeout=within)
    except subprocess.TimeoutExpired:
        pytest.fail(f"`sun launch` did not end within {within:g} s\n{logs(run_dir)}")
    assert done.returncode == 0, done.stdout + done.stderr + logs(run_dir)
    return Deployment(run_dir)


def stop(run_dir: Path, *arguments: str) -> None:
    done = run_sun("stop", "--run-dir", str(run_dir), *arguments, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def end(deployment: Deployment) -> None:
    """Stop a deployment at once, unless it has ended."""
    if deployment.state.alive:
        stop(deployment.run_dir, "--now")


@contextmanager
def running(topology: dict[str, Any], file: Path, run_dir: Path) -> Iterator[Deployment]:
    """Run a deployment until the block ends, or until a test stops it.

    Args:
        topology: content of the topology file.
        file: where it is written.
        run_dir: directory of its state.
    """
    file.write_text(yaml.safe_dump(topology, sort_keys=False))
    launched = launch(file, run_dir)
    yield launched
    end(launched)


def logs(run_dir: Path) -> str:
    files = [run_dir / "supervisor.log", *sorted((run_dir / "logs").glob("*.log"))]
    return "\n".join(f"--- {f.name}\n{f.read_text(errors='replace')[-3000:]}" for f in files if f.exists())


@contextmanager
def frozen(deployment: Deployment, name: str) -> Iterator[None]:
    """Stop a worker's scheduler for a while; its HTTP server continues."""
    with stopped(scheduler_of(deployment, name)):
        yield


def scheduler_of(deployment: Deployment, name: str) -> psutil.Process:
    """Return the scheduler process of a worker."""
    children = psutil.Process(deployment.process(name).pid).children()
    (scheduler,) = [p for p in children if "scheduler" in " ".join(p.cmdline())]
    return scheduler


@contextmanager
def stopped(process: psutil.Process) -> Iterator[None]:
    """Stop a process for a while, if it lives that long."""
    process.suspend()
    try:
        yield
    finally:
        if process.is_running():
            process.resume()


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Stop every deployment when the tests end, also when they are killed."""
    command = [sys.executable, str(Path(__file__).with_name("last_stop.py")), str(tmp_path_factory.getbasetemp())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as last:
        yield
    assert last.returncode == 0


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of `{llama,qwen3}-{base,a,b}`: for each architecture three unrelated sets of weights.

    Some have a copy that records a tuning for a first token from the decode module.
    """
    from sun_sglang.cpu import define_torchvision_schemas

    define_torchvision_schemas()
    directory = tmp_path_factory.mktemp("models")
    for architecture in ("llama", "qwen3"):
        for seed, name in enumerate(("base", "a", "b")):
            write_checkpoint(directory / f"{architecture}-{name}", architecture, seed, "float32", **SIZES)
    copy_tuned(directory, "llama-b", "llama-last-b", scheme="prefill_only", other="llama-base")
    copy_tuned(directory, "llama-b", "llama-share-b", scheme="decode_only", other="llama-a")
    copy_tuned(directory, "qwen3-a", "qwen3-share-a", scheme="decode_only", other="qwen3-b")
    write_four_bit(directory / "llama-base", directory / "llama-four-bit")
    write_task_adapters(directory, directory / "llama-a", directory / "llama-base")
    return directory


def copy_tuned(directory: Path, model: str, copy: str, *, scheme: str, other: str) -> None:
    """Copy a model, with the record of a tuning whose first token the decode module makes.

    Args:
        directory: of all models.
        model: name of the model.
        copy: name of the copy.
        scheme: name of the scheme.
        other: name of the model on the other side, which stayed frozen.
    """
    shutil.copytree(directory / model, directory / copy)
    own, frozen_side = weights_revision(directory / copy), weights_revision(directory / other)
    decoder = own if scheme == "decode_only" else frozen_side
    record = ModuleFile(scheme=scheme, base=frozen_side, decoder=decoder, first_token="decode")
    write_module_file(record, directory / copy)


@pytest.fixture(scope="session")
def deployment(
    models: Path, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[Deployment]:
    """Run every pool that the tests need, behind one router."""
    file = models / "zoo.yaml"
    file.write_text(yaml.safe_dump(TOPOLOGY, sort_keys=False))
    yield from _shared("deployment", file, tmp_path_factory, pytestconfig)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Deployment]:
    """Run the demo's tasks, and those with which they are compared."""
    file = tmp_path_factory.mktemp("demo") / "demo.yaml"
    file.write_text(yaml.safe_dump(with_comparisons(), sort_keys=False))
    yield from _shared("demo", file, tmp_path_factory, pytestconfig)


def _shared(
    name: str, topology: Path, tmp_path_factory: pytest.TempPathFactory, config: pytest.Config
) -> Iterator[Deployment]:
    launched = launch(topology, tmp_path_factory.mktemp("run"))
    config.stash.setdefault(_LAUNCHED, {})[name] = launched
    yield launched
    end(launched)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Count the tests of each shared deployment."""
    session.config.stash[_USERS] = Counter(name for item in session.items for name in _used(item))


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Stop a shared deployment after its last test: its idle processes take time from the other tests."""
    for name in _used(item):
        item.config.stash[_USERS][name] -= 1
        launched = item.config.stash.get(_LAUNCHED, {}).get(name)
        if item.config.stash[_USERS][name] == 0 and launched is not None:
            end(launched)


def _used(item: pytest.Item) -> list[str]:
    """Return the shared deployments that a test runs on."""
    return [name for name in _SHARED if name in getattr(item, "fixturenames", ())]


@pytest.fixture
async def client(deployment: Deployment) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of the router; its headers give access to the workers too."""
    async with httpx.AsyncClient(base_url=deployment.url, timeout=BUSY, headers=deployment.headers) as client:
        yield client


class Reference:
    """The answer of transformers: the task's model runs the prompt, and the decoder makes the later tokens.

    Args:
        prefill: the model that runs the prompt.
        decode: the decoder.
        first_token: the side that makes the first token; `decode` runs the last token of the prompt, too.
        precision: how exact the workers compute.
    """

    def __init__(
        self, prefill: Path, decode: Path, first_token: Side = "prefill", precision: Precision = PRECISION
    ) -> None:
        self.prefill, self.decode = load(prefill), load(decode)
        self.first_token = first_token
        self.precision = precision
        self.ties = 0
        self.answers = 0

    def answer(self, prompt: Sequence[int], length: int) -> tuple[int, ...]:
        """Return the greedy answer, never ended early."""
        return self._generate(prompt, length).tokens

    def check(self, prompt: Sequence[int], served: Sequence[int]) -> None:
        """Assert that tokens are the greedy answer.

        A batch may decide a tie of two logits differently, and all later text then differs: so the first difference is
        allowed where the reference's own margin is below `precision.tie`, and only there. `require_few_ties` bounds the
        number of such ties.
        """
        expected = self._generate(prompt, len(served))
        self.answers += 1
        for i, (ours, theirs) in enumerate(zip(served, expected.tokens, strict=True)):
            if ours != theirs:
                margin = expected.margins[i]
                assert margin < self.precision.tie, (
                    f"token {i} of {list(served)} is not the reference's {expected.tokens} ({margin:.3g})"
                )
                self.ties += 1
                return

    def require_few_ties(self) -> None:
        """Assert that no more answers hung on a tie than the machine's precision explains; one may in a short run."""
        assert self.ties <= max(1, int(self.answers * self.precision.tied_share)), (
            f"{self.ties} ties in {self.answers} answers"
        )

    def _generate(self, prompt: Sequence[int], length: int) -> Any:
        return generated(self.prefill, self.decode, self.first_token, tuple(prompt), length)


@lru_cache(maxsize=1024)
def generated(prefill: Any, decode: Any, first_token: Side, prompt: tuple[int, ...], length: int) -> Any:
    """Return the answer of two loaded models, which nothing changes: computed once for all tasks that have both."""
    from sun_sglang.train.reference import greedy

    return greedy(prefill, decode, [list(prompt)], max_new_tokens=length, first_token=first_token)[0]


@pytest.fixture(scope="session")
def task_references(models: Path) -> dict[str, Reference]:
    """Return the reference of every task, by the task's name."""

    def of(name: str, task: dict[str, str]) -> Reference:
        prefill, decode = (models / TOPOLOGY["pools"][task[role]]["model"] for role in ("prefill", "decode"))
        if name == "four-bit":
            return Reference(prefill, dense_copy(decode), precision=FOUR_BIT)
        reference = Reference(prefill, decode, "decode" if name in DECODE_FIRST else "prefill")
        if "adapter" in task:
            reference.prefill = adapted(reference.prefill, models / task["adapter"])
        return reference

    return {name: of(name, task) for name, task in TOPOLOGY["tasks"].items()}


@cache
def load(path: Path) -> Any:
    """Load a model with its weights as they are served, to compute in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, PRECISION.dtype)).float()


def some_tokens(seed: int, length: int) -> list[int]:
    """Return a prompt; each seed gives another beginning, so that no cache holds it.

    Without the last token of the vocabulary, 260: SGLang reports it as 0 among a prompt's log probabilities.
    """
    rng = random.Random(seed)
    return [rng.randrange(5, 260) for _ in range(length)]


async def generate(
    client: httpx.AsyncClient, task: str, prompt: Sequence[int], length: int, *, stream: bool = False, **fields: Any
) -> dict[str, Any]:
    """Send token ids to SGLang's `/generate`, greedily, never ended early; return the last chunk of a stream."""
    body = {
        "model": task,
        "input_ids": list(prompt),
        "sampling_params": {"temperature": 0, "max_new_tokens": length, "ignore_eos": True},
        "stream": stream,
        **fields,
    }
    if not stream:
        reply = await client.post("/generate", json=body)
        assert reply.status_code == 200, (task, reply.text)
        return dict(reply.json())
    events = [event async for event in events_of(client, "/generate", body)]
    assert events[-1] == "[DONE]"
    return dict(json.loads(events[-2]))


async def events_of(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> AsyncIterator[str]:
    """Yield the data of every server-sent event of a streamed answer."""
    async with client.stream("POST", path, json=body) as reply:
        assert reply.status_code == 200, await reply.aread()
        # httpx's own lines end at every line end of Unicode too, which a model may write
        rest = b""
        async for piece in reply.aiter_bytes():
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line.startswith(b"data:"):
                    yield line.removeprefix(b"data:").decode().strip()


async def gather(*calls: Any) -> list[Any]:
    """Run all of them at once."""
    return list(await asyncio.gather(*calls))
