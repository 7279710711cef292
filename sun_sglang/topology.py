"""The content of a topology file: the pools, and the pair of pools that serves each task.

`topology_file.py` reads such a file and checks it. Imports no engine, so that `sun check` and the router run where
SGLang is not installed.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from sun_sglang.contracts.scheme import Side
from sun_sglang.durations import Seconds
from sun_sglang.origins import check_origin
from sun_sglang.sglang_versions import NEWEST_VERSION, SglangVersion
from sun_sglang.strict import Strict

Role = Literal["prefill", "decode"]
Backend = Literal["sglang", "emulated"]
PlaceKind = Literal["local", "ray"]
PoolName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
# no part between slashes is empty, `.` or `..`: in the path of a URL such a name would be another task's
_TASK_NAME = r"^[A-Za-z0-9][A-Za-z0-9._:-]*(/[A-Za-z0-9_:-][A-Za-z0-9._:-]*)*$"
TaskName = Annotated[str, StringConstraints(pattern=_TASK_NAME, max_length=128)]
HostName = Annotated[str, StringConstraints(pattern=r"^(\*|(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*)$", max_length=253)]
Origin = Annotated[str, AfterValidator(check_origin)]
EngineFlags = dict[str, Any]
DecodePolicy = Literal["least_tokens", "least_requests", "power_of_two", "round_robin", "random", "cache_affinity"]
GatedField = Literal["stop_regex", "regex", "ebnf", "structural_tag"]
PrefillPolicy = DecodePolicy | Literal["prefix_affinity"]


class Emulation(Strict):
    """The settings of emulated workers. Times are seconds.

    Attributes:
        costs: path of a cost file, absolute once loaded; None where nothing takes any time.
        sglang: version of SGLang whose replies the workers give.
        bytes_per_token: UTF-8 bytes of text that count as one token.
        heartbeat_interval: time between two heartbeats of a decode worker to its prefill workers.
        heartbeat_failures: missed heartbeats in a row after which a decode worker gives a prefill worker up.
        waiting_timeout: longest time that a decode worker waits for KV that it has reserved room for.
        bootstrap_timeout: longest time that a prefill worker waits for the decode worker of a request.
        lookup_attempts: requests to a bootstrap address before the requests that need it fail.
        lookup_pause: time between two of these attempts.
        lookup_timeout: longest time of one attempt; the decode worker does nothing else meanwhile, as in SGLang.
        disconnect_poll: longest time until a worker notices that the client of a non-streamed request has left.
        fault: a fault that is active from the start, as JSON, such as `{"kind": "slow", "factor": 3}`.
        architecture: architecture of the model; used, as are all fields below, where there is no checkpoint.
        num_layers: hidden layers.
        num_kv_heads: KV heads a layer.
        head_dim: size of one head.
        vocab_size: rows of the embedding.
        context_length: longest prompt and answer together, in tokens.
        first_token: the side that makes the first token, as the `sun.json` of a checkpoint names it.
        module_size: bytes of a module that is no checkpoint, in the host memory of workers that keep modules.
    """

    costs: str | None = None
    sglang: SglangVersion = NEWEST_VERSION
    bytes_per_token: int = Field(default=4, ge=1)
    heartbeat_interval: float = Field(default=5.0, gt=0)
    heartbeat_failures: int = Field(default=2, ge=1)
    waiting_timeout: float = Field(default=300.0, gt=0)
    bootstrap_timeout: float = Field(default=300.0, gt=0)
    lookup_attempts: int = Field(default=15, ge=1)
    lookup_pause: float = Field(default=1.0, ge=0)
    lookup_timeout: float = Field(default=5.0, gt=0)
    disconnect_poll: float = Field(default=4.0, ge=0)
    fault: str | None = None
    architecture: str = "LlamaForCausalLM"
    num_layers: int = Field(default=32, ge=1)
    num_kv_heads: int = Field(default=8, ge=1)
    head_dim: int = Field(default=128, ge=1)
    vocab_size: int = Field(default=128256, ge=1)
    context_length: int = Field(default=32768, ge=16)
    first_token: Side = "prefill"
    module_size: int = Field(default=16_060_522_496, ge=0)


class ModuleSettings(Strict):
    """How the workers of a prefill pool keep the modules of its tasks, and change between them.

    Attributes:
        host_memory_gb: most host memory for modules on each worker, in GB (1e9 bytes); the least recently used module
            gives way. None for half of the machine's memory. Workers of one machine share the memory of equal modules.
        ttft_slo: seconds from a request's arrival at a worker until its prompt should be computed; a module whose
            oldest request would be later takes its turn first.
    """

    host_memory_gb: float | None = Field(default=None, gt=0, le=1e6)
    ttft_slo: float = Field(default=1.0, gt=0, le=3600)


class Pool(Strict):
    """A set of identical workers with one role and one model.

    Attributes:
        role: the role of its workers.
        model: a directory (absolute once loaded) or a Hugging Face id.
        replicas: number of workers.
        revision: the Hugging Face revision, for a model that is not a directory.
        engine: SGLang flags, with underscores and without dashes; they override the file's `engine`.
        gpus: indices of the GPUs that its workers take in turn, from the first again when all are taken. Workers may
            then share a GPU (lower `mem_fraction_static`). None: each worker gets GPUs of its own.
        backend: `emulated` for workers without a model; None for the file's `backend`.
        emulated: settings of its emulated workers, in place of the file's.
        modules: for a prefill pool whose workers change between the modules of tasks with a `model` of their own; None
            where no task of the pool has one, now or later.
    """

    role: Role
    model: str = Field(min_length=1)
    replicas: int = Field(default=1, ge=1, le=1024)
    revision: str | None = None
    engine: EngineFlags = Field(default_factory=dict)
    gpus: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(default=None, min_length=1)
    backend: Backend | None = None
    emulated: Emulation | None = None
    modules: ModuleSettings | None = None


class Slo(Strict):
    """What the answers of a pool should keep.

    Attributes:
        tpot: seconds of an output token after the first one.
    """

    tpot: Seconds = Field(gt=0, le=3600)


class Autoscale(Strict):
    """A decode pool that sizes itself. Times are seconds, or texts such as `25ms`.

    Attributes:
        pool: the decode pool; its `replicas` workers are started at first, or `min` where that is more.
        min: fewest workers.
        max: most workers; the machine must have room for them.
        slo: what its answers should keep.
        share: the share of the decode steps that should keep the SLO.
        load: the share of a worker's capacity that the mean work may take; the rest is for work that varies within
            `window`.
        window: time over which the offered work is averaged.
        hold: time for which a need is remembered before the pool shrinks; None for three measured boots.
        boot: time from the start of a worker until it serves, before one was measured.
        costs: path of a cost file for its workers, absolute once loaded. None: that of emulated workers, and for others
            the costs are learned from the steps that they measure.
    """

    pool: PoolName
    min: int = Field(default=1, ge=1, le=1024)
    max: int = Field(ge=1, le=1024)
    slo: Slo
    share: float = Field(default=0.95, ge=0.5, lt=1)
    load: float = Field(default=0.95, gt=0, le=1)
    window: Seconds = Field(default=30.0, ge=1, le=3600)
    hold: Seconds | None = Field(default=None, ge=0, le=86400)
    boot: Seconds = Field(default=60.0, gt=0, le=86400)
    costs: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _ordered(self) -> Autoscale:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


def _listed(value: object) -> object:
    if isinstance(value, dict | Autoscale):
        return [value]
    if not isinstance(value, list | tuple):
        raise ValueError("is a mapping such as `{pool: base, max: 8, slo: {tpot: 25ms}}`, or a list of them")
    return value


def _named_place(value: object) -> object:
    return {"kind": value} if isinstance(value, str) else value


class PlaceSettings(Strict):
    """Where the workers run.

    Attributes:
        kind: `local` for the launcher's machine, `ray` for the machines of a Ray cluster.
        address: the Ray cluster: `auto` for the one of the launcher's machine, or HOST:PORT of its head.
        labels: names and values of Ray's labels that a machine must have to run workers.
        room_timeout: seconds to wait for a machine with room, for example until a cluster has grown.
    """

    kind: PlaceKind = "local"
    address: str = Field(default="auto", min_length=1)
    labels: dict[str, str] = Field(default_factory=dict)
    room_timeout: float = Field(default=30.0, gt=0)


class TaskSettings(Strict):
    """The pools of a task and its share of them, as the topology file and the fleet file have them.

    Attributes:
        prefill: name of a prefill pool.
        decode: name of a decode pool.
        any_decoder: serve the task although one of its two models was tuned for another one, to measure the loss.
        failover: go on with an answer on another decode worker when its decode worker is lost. Off for a task whose
            answers may end with an error instead.
        weight: its share of the work in flight while tasks wait, relative to the weights of the other tasks.
        max_requests: most answers of the task in flight at once; None is no cap.
        max_tokens: most expected work in flight, in tokens: prompts, and the answers' limits; None is no cap.
    """

    prefill: PoolName
    decode: PoolName
    any_decoder: bool = False
    failover: bool = True
    weight: float = Field(default=1.0, ge=0.01, le=1000.0)
    max_requests: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)


class Task(TaskSettings):
    """A task is a pair of pools: one prefills its prompts, the other decodes its answers.

    Attributes:
        adapter: directory of a LoRA adapter that the prefill pool applies to its prompts, absolute once loaded; None
            for none.
        model: directory of a module that prefills its prompts in place of the pool's model, absolute once loaded; the
            workers of the pool change between the modules of their tasks. None for the pool's model.
    """

    adapter: str | None = Field(default=None, min_length=1)
    model: str | None = Field(default=None, min_length=1)


class AdapterDirectory(Strict):
    """A directory of LoRA adapters: each subdirectory with an `adapter_config.json` is a task with its name.

    Attributes:
        directory: the directory, absolute once loaded.
        prefill: name of the prefill pool of its tasks.
        decode: name of the decode pool of its tasks.
        prefix: text before the subdirectory's name in the name of the task.
    """

    directory: str = Field(min_length=1)
    prefill: PoolName
    decode: PoolName
    prefix: str = ""


class Policies(Strict):
    """The policies that choose a request's workers among those of a pool.

    Attributes:
        prefill: chooses the prefill worker.
        decode: chooses the decode worker.
    """

    prefill: PrefillPolicy = "least_tokens"
    decode: DecodePolicy = "least_tokens"


class Router(Strict):
    """The settings of the router. Times are seconds, sizes MiB.

    Attributes:
        host: address to bind.
        port: TCP port; 0 takes a free one.
        hosts: host names that a router without keys accepts, besides addresses, names without a dot and private names;
            `*.example.com` is every name below a domain, `*` every name.
        first_token_timeout: longest time from dispatch to the first byte of an answer.
        idle_timeout: a decode worker with requests in flight that generates nothing for this time leaves the rotation.
        answer_timeout: longest time without output of one answer while its worker generates; at least `idle_timeout`.
        write_timeout: a client that reads less than 64 KiB in this time, while more is ready, is disconnected.
        failover_tokens: most output tokens of one answer that the router keeps (4 bytes each), and that another decode
            worker repeats. A longer answer goes on, and ends with an error if its decode worker is lost.
        failover_attempts: losses of a decode worker that one answer survives. Small, since a request may be what ends
            its worker, and would end the next one. The moves of `sun workers drain --move` do not count.
        max_body_mb: largest request body; a larger one is answered with 413.
        max_answer_mb: largest non-streamed answer of a worker; a larger one ends with 502.
        probe_interval: time between two health checks of a worker.
        load_interval: time between two reads of a worker's reported load; 0 to count only the router's own requests.
        policy: the policies that choose workers.
        max_requests: most answers of all tasks in flight at once; None is no cap.
        max_tokens: most expected work in flight, in tokens: prompts, and the answers' limits; None is no cap.
        queue_size: most requests of one task that wait; one more is answered with 429.
        queue_timeout: longest wait of a request for the turn of its first answer; then it is answered with 429.
        sessions_first: of a task's requests that wait, those that continue a session that the client names go before
            those that begin one. For clients that may be trusted with it.
        drain_timeout: longest time that requests in flight go on after the router began to stop.
        processes: number of router processes that share the port.
        api_keys: path of a file of API keys, absolute once loaded. With None, and without `SUN_API_KEYS`, no key is
            required.
        tls_cert: path of a certificate in PEM, with its chain; absolute once loaded. None for plain HTTP.
        tls_key: path of its private key.
        log_requests: write a log line for every request, and not only for failed ones.
        cors: origins of web pages that may call the router, as browsers send them (`https://app.example.com`); `*` is
            every origin. Pages never reach endpoints for admin keys.
        allow: request fields that clients may use although one hostile value can stop a worker that others share.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    hosts: tuple[HostName, ...] = ()
    first_token_timeout: float = Field(default=120.0, gt=0)
    idle_timeout: float = Field(default=120.0, gt=0)
    answer_timeout: float = Field(default=1800.0, gt=0)
    write_timeout: float = Field(default=60.0, gt=0)
    failover_tokens: int = Field(default=16384, ge=1, le=1 << 24)
    failover_attempts: int = Field(default=1, ge=1, le=16)
    max_body_mb: float = Field(default=32.0, gt=0)
    max_answer_mb: float = Field(default=64.0, gt=0)
    probe_interval: float = Field(default=1.0, gt=0)
    load_interval: float = Field(default=1.0, ge=0)
    policy: Policies = Field(default_factory=Policies)
    max_requests: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    queue_size: int = Field(default=1024, ge=0)
    queue_timeout: float = Field(default=30.0, gt=0)
    sessions_first: bool = False
    drain_timeout: float = Field(default=30.0, ge=0)
    processes: int = Field(default=1, ge=1, le=64)
    api_keys: str | None = Field(default=None, min_length=1)
    tls_cert: str | None = Field(default=None, min_length=1)
    tls_key: str | None = Field(default=None, min_length=1)
    log_requests: bool = False
    cors: tuple[Origin, ...] = ()
    allow: tuple[GatedField, ...] = ()


class Topology(Strict):
    """A whole topology file. Once loaded, every name resolves, and every pool is used in its own role.

    Attributes:
        pools: the pools by name.
        tasks: the tasks by name; once loaded, with those of `adapters`.
        adapters: directories of adapters, each a task.
        engine: SGLang flags of every worker.
        router: settings of the router.
        backend: the backend of every pool that names none.
        emulated: settings of emulated workers.
        autoscale: the decode pools that size themselves; a single one may be given without a list.
        place: where the workers run; a name alone stands for the place with its defaults.
    """

    pools: dict[PoolName, Pool] = Field(min_length=1)
    tasks: dict[TaskName, Task] = Field(default_factory=dict)
    adapters: tuple[AdapterDirectory, ...] = ()
    engine: EngineFlags = Field(default_factory=dict)
    router: Router = Field(default_factory=Router)
    backend: Backend = "sglang"
    emulated: Emulation = Field(default_factory=Emulation)
    autoscale: Annotated[tuple[Autoscale, ...], BeforeValidator(_listed)] = ()
    place: Annotated[PlaceSettings, BeforeValidator(_named_place)] = Field(default_factory=PlaceSettings)

    def backend_of(self, pool: str) -> Backend:
        """Return the backend of a pool's workers: the pool's own, else the file's."""
        return self.pools[pool].backend or self.backend

    def emulation_of(self, pool: str) -> Emulation:
        """Return the settings of a pool's emulated workers: the pool's own, else the file's."""
        return self.pools[pool].emulated or self.emulated

    def engine_of(self, pool: str) -> EngineFlags:
        """Return the SGLang flags of a pool's workers: the file's, overridden by the pool's own."""
        return {**self.engine, **self.pools[pool].engine}

    def engines(self) -> list[tuple[str, EngineFlags]]:
        """Return the YAML path of every `engine` of the file, and its flags."""
        return [("engine", self.engine), *((f"pools.{name}.engine", pool.engine) for name, pool in self.pools.items())]

    def autoscale_of(self, pool: str) -> Autoscale | None:
        """Return how a pool sizes itself; None where its size stays."""
        return next((scaled for scaled in self.autoscale if scaled.pool == pool), None)

    def tasks_of(self, pool: str) -> list[str]:
        """Return the names of the tasks that a pool serves, in file order."""
        return [name for name, task in self.tasks.items() if pool in (task.prefill, task.decode)]

    def pairs(self) -> list[tuple[str, str]]:
        """Return the distinct (prefill pool, decode pool) pairs that tasks use, in file order."""
        return list(dict.fromkeys((t.prefill, t.decode) for t in self.tasks.values()))
