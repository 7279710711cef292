"""The objects of one pool: a Deployment or LeaderWorkerSet, a headless Service, a PodDisruptionBudget. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

from sun_sglang.contracts.worker_key import WORKER_KEY_VARIABLE
from sun_sglang.kubernetes.export.options import ExportOptions
from sun_sglang.kubernetes.export.pool_pods import FILES_DIR, PoolPods, worker_command
from sun_sglang.kubernetes.export.security import CONTAINER_SECURITY, POD_SECURITY
from sun_sglang.kubernetes.in_pod.pre_stop import SETTLE_S
from sun_sglang.kubernetes.labels import POOL, RANK, RENDEZVOUS_PORT, WORKER, WORKER_PORT, labels, selector

Manifest = dict[str, Any]

# A worker that has received SIGTERM ends its requests and its schedulers; after it Kubernetes sends SIGKILL.
_END_S: Final = 20
# loading some hundred GB over a network
_BOOT_S: Final = 3600
_CACHE_DIR: Final = "/var/cache/sun"


def pool_objects(name: str, pods: PoolPods, options: ExportOptions, drain_s: float, files: bool) -> Iterator[Manifest]:
    """Yield the objects of a pool.

    Args:
        name: of its Deployment and Service.
        pods: its pods.
        options: of the command.
        drain_s: seconds that the requests of a pod which is deleted may take: the router's `drain_timeout`.
        files: whether the topology has small files that workers read.
    """
    spans = pods.nodes > 1
    yield (_leader_worker_set if spans else _deployment)(name, pods, options, drain_s, files)
    chosen = selector(options.name, WORKER) | {POOL: pods.pool.name}
    own = labels(options.name, WORKER, pods.pool.name, pods.pool.role)
    yield {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": own},
        "spec": {
            "clusterIP": "None",
            "selector": chosen,
            "ports": [{"name": "http", "port": WORKER_PORT, "targetPort": "http", "protocol": "TCP"}],
        },
    }
    yield {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": name, "labels": own},
        # a pool of one worker can be evicted too: it moves with a gap, and blocks no node
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": chosen}},
    }


def grace_seconds(drain_s: float) -> int:
    """Return `terminationGracePeriodSeconds` of a worker's pod."""
    return _most_drain(drain_s) + _END_S


def _most_drain(drain_s: float) -> int:
    return math.ceil(drain_s + SETTLE_S)


def _deployment(name: str, pods: PoolPods, options: ExportOptions, drain_s: float, files: bool) -> Manifest:
    own = labels(options.name, WORKER, pods.pool.name, pods.pool.role)
    # No spare GPU is needed to replace one worker of several. The only worker of a pool is replaced without a gap.
    at_once = {"maxSurge": 0, "maxUnavailable": 1} if pods.replicas > 1 else {"maxSurge": 1, "maxUnavailable": 0}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": own},
        "spec": {
            "replicas": pods.replicas,
            "selector": {"matchLabels": selector(options.name, WORKER) | {POOL: pods.pool.name}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": at_once},
            "progressDeadlineSeconds": _BOOT_S + 600,
            "template": {
                "metadata": {"labels": own},
                "spec": _pod(pods, options, drain_s, files, worker_command(pods), serves=True),
            },
        },
    }


def _leader_worker_set(name: str, pods: PoolPods, options: ExportOptions, drain_s: float, files: bool) -> Manifest:
    """Return the LeaderWorkerSet of a pool whose workers span pods: the first of each group serves HTTP."""
    # the controller sets both variables in every container
    group = ["--node-rank", "$(LWS_WORKER_INDEX)", "--dist-init-addr", f"$(LWS_LEADER_ADDRESS):{RENDEZVOUS_PORT}"]
    command = [*worker_command(pods), *group]

    def template(component: str) -> Manifest:
        own = labels(options.name, component, pods.pool.name, pods.pool.role)
        spec = _pod(pods, options, drain_s, files, command, serves=component == WORKER)
        return {"metadata": {"labels": own}, "spec": spec}

    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {"name": name, "labels": labels(options.name, WORKER, pods.pool.name, pods.pool.role)},
        "spec": {
            "replicas": pods.replicas,
            "rolloutStrategy": {
                "type": "RollingUpdate",
                "rollingUpdateConfiguration": {"maxUnavailable": 1, "maxSurge": 0},
            },
            "leaderWorkerTemplate": {
                "size": pods.nodes,
                # the ranks of a worker end together
                "restartPolicy": "RecreateGroupOnPodRestart",
                "leaderTemplate": template(WORKER),
                "workerTemplate": template(RANK),
            },
        },
    }


def _pod(
    pods: PoolPods, options: ExportOptions, drain_s: float, files: bool, command: list[str], *, serves: bool
) -> Manifest:
    mounts, volumes = _volumes(pods, options, files)
    container: Manifest = {
        "name": "worker",
        "image": options.image,
        "command": command,
        "env": _environment(pods, options),
        "resources": _resources(pods, options),
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": mounts,
    }
    if serves:
        hook = ["python", "-m", "sun_sglang.kubernetes.in_pod.pre_stop", str(_most_drain(drain_s))]
        container |= {
            "ports": [{"name": "http", "containerPort": WORKER_PORT, "protocol": "TCP"}],
            "startupProbe": _probe(period=5, timeout=20, failures=_BOOT_S // 5),
            "readinessProbe": _probe("--ready", period=5, timeout=20, failures=3),
            # a worker that tokenizes a long prompt answers late; the router's own probes decide who gets requests
            "livenessProbe": _probe(period=30, timeout=20, failures=5),
            "lifecycle": {"preStop": {"exec": {"command": hook}}},
        }
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace_seconds(drain_s),
        "securityContext": POD_SECURITY,
        "containers": [container],
        "volumes": volumes,
    }


def _probe(*arguments: str, period: int, timeout: int, failures: int) -> Manifest:
    command = ["python", "-m", "sun_sglang.kubernetes.in_pod.probe", *arguments]
    return {
        "exec": {"command": command},
        "periodSeconds": period,
        "timeoutSeconds": timeout,
        "failureThreshold": failures,
    }


def _environment(pods: PoolPods, options: ExportOptions) -> list[Manifest]:
    own_address = {"fieldRef": {"fieldPath": "status.podIP"}}
    key = {"secretKeyRef": {"name": options.worker_key, "key": "key"}}
    env: list[Manifest] = [
        {"name": "POD_IP", "valueFrom": own_address},
        # the address that a worker reports to its peers
        {"name": "SGLANG_HOST_IP", "value": "$(POD_IP)"},
        {"name": "WORKER_PORT", "value": str(WORKER_PORT)},
        {"name": WORKER_KEY_VARIABLE, "valueFrom": key},
        {"name": "HF_HOME", "value": f"{_CACHE_DIR}/huggingface"},
        {"name": "XDG_CACHE_HOME", "value": f"{_CACHE_DIR}/engine"},
        {"name": "HOME", "value": "/tmp"},
    ]
    if options.hub_token_secret is not None:
        token = {"secretKeyRef": {"name": options.hub_token_secret, "key": "token"}}
        env.append({"name": "HF_TOKEN", "valueFrom": token})
    return [*env, *({"name": name, "value": value.replace("$(", "$$(")} for name, value in pods.worker.env.items())]


def _resources(pods: PoolPods, options: ExportOptions) -> Manifest:
    requests = {"cpu": str(options.cpus), "memory": f"{options.memory_gb}Gi"}
    # the page cache of a model that is read counts as memory of the pod, and so does /dev/shm
    limits = {"memory": f"{options.memory_gb}Gi"}
    if pods.gpus:
        return {"requests": requests, "limits": limits | {options.gpu_resource: str(pods.gpus)}}
    return {"requests": requests, "limits": limits}


def _volumes(pods: PoolPods, options: ExportOptions, files: bool) -> tuple[list[Manifest], list[Manifest]]:
    """Return where a worker's container mounts volumes, and the volumes of its pod."""
    cache = {"persistentVolumeClaim": {"claimName": options.cache_claim}} if options.cache_claim else {"emptyDir": {}}
    shm = {"medium": "Memory", "sizeLimit": f"{max(1, options.memory_gb // 2)}Gi"}
    found: list[tuple[str, str, Manifest, bool]] = [
        # NCCL, SGLang's message queues, and the modules that take turns
        ("shm", "/dev/shm", {"emptyDir": shm}, False),
        ("cache", _CACHE_DIR, cache, False),
        ("tmp", "/tmp", {"emptyDir": {}}, False),
    ]
    if options.models is not None:
        claim = {"persistentVolumeClaim": {"claimName": options.models.claim, "readOnly": True}}
        found.append(("models", str(options.models.directory), claim, True))
    if files:
        found.append(("files", FILES_DIR, {"configMap": {"name": f"{options.name}-files"}}, True))
    mounts = [{"name": n, "mountPath": at} | ({"readOnly": True} if ro else {}) for n, at, _, ro in found]
    return mounts, [{"name": name, **source} for name, _, source, _ in found]
