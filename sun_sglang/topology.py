"""The topology file: which pools exist, and which pair of pools serves each task.

Imports no engine, so that `sun check` and the router run where SGLang is not installed.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from sun_sglang.sglang_versions import NEWEST_VERSION, SglangVersion
from sun_sglang.strict import Strict

Role = Literal["prefill", "decode"]
Backend = Literal["sglang", "emulated"]
PoolName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
TaskName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$", max_length=128)]
HostName = Annotated[str, StringConstraints(pattern=r"^(\*|(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*)$", max_length=253)]
EngineFlags = dict[str, Any]
DecodePolicy = Literal["least_tokens", "least_requests", "power_of_two", "round_robin", "random", "cache_affinity"]
GatedField = Literal["stop_regex", "regex", "ebnf", "structural_tag"]
PrefillPolicy = DecodePolicy | Literal["prefix_affinity"]


class Emulation(Strict):
    """What emulated workers emulate. Times are seconds.

    Attributes:
        costs: a cost file, absolute once loaded; left out, nothing takes any time.
        sglang: version of SGLang whose replies they give.
        bytes_per_token: UTF-8 bytes of text that count as one token.
        heartbeat_interval: between two heartbeats of a decode worker to its prefill workers.
        heartbeat_failures: missed ones in a row after which a prefill worker is given up.
        waiting_timeout: how long a decode worker waits for KV that it reserved room for.
        bootstrap_timeout: how long a prefill worker waits for the decode worker of a request.
        lookup_attempts: how often a bootstrap address is asked before its requests fail.
        lookup_pause: between two such questions.
        lookup_timeout: how long each may take; the decode worker does nothing else meanwhile, as in SGLang.
        disconnect_poll: how long a client that left a request that does not stream may go unnoticed.
        fault: a fault that is on from the start, as JSON, such as `{"kind": "slow", "factor": 3}`.
        architecture: of the model, where there is no checkpoint; so are all that follow.
        num_layers: hidden layers.
        num_kv_heads: KV heads a layer.
        head_dim: size of one head.
        vocab_size: rows of the embedding.
        context_length: longest prompt and answer together, in tokens.
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


class Pool(Strict):
    """A set of identical workers with one role and one model.

    Attributes:
        role: what its workers do.
        model: a directory (absolute once loaded) or a Hugging Face id.
        replicas: how many workers.
        revision: the Hugging Face revision, for a model that is not a directory.
        engine: SGLang flags that win over the file's `engine`, with underscores and without dashes.
        gpus: indices of the GPUs that its workers take in turn, from the first again when all are taken, so that
            workers may share one (then lower `mem_fraction_static`). Left out: each worker gets GPUs of its own.
        backend: `emulated` for workers without a model; left out, the file's.
        emulated: what they emulate, in place of the file's.
    """

    role: Role
    model: str = Field(min_length=1)
    replicas: int = Field(default=1, ge=1, le=1024)
    revision: str | None = None
    engine: EngineFlags = Field(default_factory=dict)
    gpus: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(default=None, min_length=1)
    backend: Backend | None = None
    emulated: Emulation | None = None


class Task(Strict):
    """A task is a pair of pools: one prefills its prompts, the other decodes its answers.

    Attributes:
        prefill: name of a prefill pool.
        decode: name of a decode pool.
        any_decoder: serve it even where its prefill model was tuned for another decoder, to measure what that costs.
        weight: its share of what is in flight while tasks wait, beside other tasks' weights.
        max_requests: answers of it that may be in flight at once; None is no cap.
        max_tokens: expected work of those, in tokens: prompts, and the answers' limits.
    """

    prefill: PoolName
    decode: PoolName
    any_decoder: bool = False
    weight: float = Field(default=1.0, ge=0.01, le=1000.0)
    max_requests: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)


class Policies(Strict):
    """How a worker is chosen among those of a pool.

    Attributes:
        prefill: of a request's prefill worker.
        decode: of its decode worker.
    """

    prefill: PrefillPolicy = "least_tokens"
    decode: DecodePolicy = "least_tokens"


class Router(Strict):
    """Where the router listens and how long it waits. Times are seconds, sizes MiB.

    Attributes:
        host: address to bind.
        port: TCP port; 0 takes a free one.
        hosts: names by which clients reach a router without keys, besides addresses, names without a dot and private
            ones; `*.example.com` for all below a domain, `*` for all.
        first_token_timeout: from dispatch to the first byte of an answer.
        idle_timeout: a decode worker that owes tokens and makes none for so long leaves the rotation.
        answer_timeout: for an answer that shows nothing while its worker makes tokens; at least `idle_timeout`.
        write_timeout: a client that takes less than 64 KiB in so long, although more waits for it, is disconnected.
        max_body_mb: a larger request body is refused with 413.
        max_answer_mb: a worker's answer that is not streamed and is larger is broken off: 502.
        probe_interval: between two looks at a worker's health.
        load_interval: between two looks at how much work a worker says it has; 0 to count only what the router sent.
        policy: how workers are chosen.
        max_requests: answers that may be in flight at once, of all tasks; None is no cap.
        max_tokens: expected work of those, in tokens: prompts, and the answers' limits.
        queue_size: requests of one task that may wait; one more is answered with 429.
        queue_timeout: how long a request may wait for its first answer's turn before it is answered with 429.
        drain_timeout: how long requests in flight may go on once the router was told to stop.
        processes: how many router processes share the port.
        api_keys: a file of API keys, absolute once loaded; None lets everyone in, unless `SUN_API_KEYS` has keys.
        tls_cert: a certificate file in PEM, with its chain; absolute once loaded. None for plain HTTP.
        tls_key: its private key.
        log_requests: write a log line for every request, and not only for those that failed.
        allow: request fields that clients may use although one such field can stop a worker that others share.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    hosts: tuple[HostName, ...] = ()
    first_token_timeout: float = Field(default=120.0, gt=0)
    idle_timeout: float = Field(default=120.0, gt=0)
    answer_timeout: float = Field(default=1800.0, gt=0)
    write_timeout: float = Field(default=60.0, gt=0)
    max_body_mb: float = Field(default=32.0, gt=0)
    max_answer_mb: float = Field(default=64.0, gt=0)
    probe_interval: float = Field(default=1.0, gt=0)
    load_interval: float = Field(default=1.0, ge=0)
    policy: Policies = Field(default_factory=Policies)
    max_requests: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    queue_size: int = Field(default=1024, ge=0)
    queue_timeout: float = Field(default=30.0, gt=0)
    drain_timeout: float = Field(default=30.0, ge=0)
    processes: int = Field(default=1, ge=1, le=64)
    api_keys: str | None = Field(default=None, min_length=1)
    tls_cert: str | None = Field(default=None, min_length=1)
    tls_key: str | None = Field(default=None, min_length=1)
    log_requests: bool = False
    allow: tuple[GatedField, ...] = ()


class Topology(Strict):
    """A whole topology file, checked: every name resolves, every pool has its right role and is used."""

    pools: dict[PoolName, Pool] = Field(min_length=1)
    tasks: dict[TaskName, Task] = Field(min_length=1)
    engine: EngineFlags = Field(default_factory=dict)
    router: Router = Field(default_factory=Router)
    backend: Backend = "sglang"
    emulated: Emulation = Field(default_factory=Emulation)

    def backend_of(self, pool: str) -> Backend:
        """What a pool's workers are: the file's, unless the pool says otherwise."""
        return self.pools[pool].backend or self.backend

    def emulation_of(self, pool: str) -> Emulation:
        """What a pool's emulated workers emulate."""
        return self.pools[pool].emulated or self.emulated

    def engine_of(self, pool: str) -> EngineFlags:
        """SGLang flags of a pool's workers: the file's, overridden by the pool's own."""
        return {**self.engine, **self.pools[pool].engine}

    def tasks_of(self, pool: str) -> list[str]:
        """Names of the tasks that a pool serves, in file order."""
        return [name for name, task in self.tasks.items() if pool in (task.prefill, task.decode)]

    def pairs(self) -> list[tuple[str, str]]:
        """The distinct (prefill pool, decode pool) pairs that tasks use, in file order."""
        return list(dict.fromkeys((t.prefill, t.decode) for t in self.tasks.values()))
