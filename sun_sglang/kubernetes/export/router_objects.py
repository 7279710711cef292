"""The objects of the router: Deployment, Service, ConfigMap, and the account with which it watches pods. Pure."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Any, Final

from sun_sglang.contracts.fleet_file import FLEET_FILE, Fleet
from sun_sglang.contracts.worker_key import WORKER_KEY_VARIABLE
from sun_sglang.errors import UserError
from sun_sglang.kubernetes.export.options import ExportOptions
from sun_sglang.kubernetes.export.security import CONTAINER_SECURITY, POD_SECURITY
from sun_sglang.kubernetes.labels import ROUTER, RUN_DIR, labels, selector
from sun_sglang.topology import Router

Manifest = dict[str, Any]

_FLEET_DIR: Final = "/etc/sun/fleet"
_KEYS_DIR: Final = "/etc/sun/keys"
_TLS_DIR: Final = "/etc/sun/tls"
KEYS_FILE: Final = "keys.yaml"
_TOKEN_DIR: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
# Until every node knows that the pod is leaving, new connections still come.
_ENDPOINTS_S: Final = 5
# what etcd takes in one object, less the rest of the object
_MOST_CONFIG_BYTES: Final = 1_000_000


def in_pod(router: Router, options: ExportOptions) -> Router:
    """Return the router's settings with the addresses and the paths of its pod."""
    service = f"{options.name}-{ROUTER}"
    namespace = options.namespace or "*"
    names = () if options.namespace is None else tuple(f"{service}.{namespace}{end}" for end in ("", ".svc"))
    return router.model_copy(
        update={
            "host": "0.0.0.0",
            # the processes of a router find each other on one machine, and each container is one
            "processes": 1,
            # `*.svc.cluster.local` is a private name, which the router takes by itself
            "hosts": (*router.hosts, *(name for name in names if name not in router.hosts)),
            "api_keys": f"{_KEYS_DIR}/{KEYS_FILE}" if router.api_keys is not None else None,
            "tls_cert": f"{_TLS_DIR}/tls.crt" if router.tls_cert is not None else None,
            "tls_key": f"{_TLS_DIR}/tls.key" if router.tls_cert is not None else None,
        }
    )


def router_objects(fleet: Fleet, options: ExportOptions) -> Iterator[Manifest]:
    """Yield the objects of the router.

    Args:
        fleet: the content of its fleet file, with the settings of `in_pod` and without workers.
        options: of the command.

    Raises:
        UserError: the fleet file is too large for a ConfigMap.
    """
    name, own = f"{options.name}-{ROUTER}", labels(options.name, ROUTER)
    content = fleet.model_dump_json(indent=1, exclude_defaults=True)
    if len(content.encode()) > _MOST_CONFIG_BYTES:
        problem = (
            f"the fleet file of {len(fleet.tasks)} tasks has {len(content.encode()):,} bytes, and a ConfigMap 1 MiB"
        )
        raise UserError(f"{problem}; leave tasks out of the topology, and add them over the router's API")
    yield {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "labels": own}}
    yield {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": name, "labels": own},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}],
    }
    subject = {"kind": "ServiceAccount", "name": name}
    yield {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": name, "labels": own},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [subject | ({"namespace": options.namespace} if options.namespace else {})],
    }
    yield {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{options.name}-fleet", "labels": own},
        "data": {FLEET_FILE: content},
    }
    yield _deployment(name, own, fleet, content, options)
    port = fleet.router.port
    yield {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": own},
        "spec": {
            "selector": selector(options.name, ROUTER),
            "ports": [{"name": "http", "port": port, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def _deployment(name: str, own: dict[str, str], fleet: Fleet, content: str, options: ExportOptions) -> Manifest:
    drain = fleet.router.drain_timeout
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": own},
        "spec": {
            # caps, queues and rates are one router's
            "replicas": 1,
            "selector": {"matchLabels": selector(options.name, ROUTER)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                # another fleet file is another router
                "metadata": {"labels": own, "annotations": {"sun-sglang/fleet": _digest(content)}},
                "spec": {
                    "serviceAccountName": name,
                    # discovery alone mounts the token
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "terminationGracePeriodSeconds": math.ceil(drain) + _ENDPOINTS_S + 15,
                    "securityContext": POD_SECURITY,
                    "initContainers": [_files(options)],
                    "containers": [_router(fleet, options), _discovery(fleet, options)],
                    "volumes": _volumes(fleet, options),
                },
            },
        },
    }


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _container(name: str, options: ExportOptions, command: list[str], mounts: list[Manifest], memory: str) -> Manifest:
    return {
        "name": name,
        "image": options.image,
        "command": ["python", "-m", *command],
        "resources": {"requests": {"cpu": "100m", "memory": memory}},
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": mounts,
    }


def _files(options: ExportOptions) -> Manifest:
    command = ["sun_sglang.kubernetes.in_pod.router_files", f"{_FLEET_DIR}/{FLEET_FILE}", RUN_DIR]
    return _container("files", options, command, [_mount("fleet", _FLEET_DIR), _RUN], "128Mi")


def _mount(name: str, path: str) -> Manifest:
    return {"name": name, "mountPath": path, "readOnly": True}


_RUN: Final[Manifest] = {"name": "run", "mountPath": RUN_DIR}


def _router(fleet: Fleet, options: ExportOptions) -> Manifest:
    command = ["sun_sglang.router", f"{RUN_DIR}/{FLEET_FILE}"]
    container = _container("router", options, command, [_RUN, *_credentials(fleet)], "512Mi")
    container["resources"]["requests"]["cpu"] = "1"
    sleep = ["python", "-c", f"import time; time.sleep({_ENDPOINTS_S})"]
    return container | {
        "ports": [{"name": "http", "containerPort": fleet.router.port, "protocol": "TCP"}],
        "startupProbe": _probe("/livez", fleet, period=1, failures=60),
        "readinessProbe": _probe("/readyz", fleet, period=5, failures=2),
        "livenessProbe": _probe("/livez", fleet, period=10, failures=6),
        "lifecycle": {"preStop": {"exec": {"command": sleep}}},
    }


def _probe(path: str, fleet: Fleet, *, period: int, failures: int) -> Manifest:
    scheme = "HTTPS" if fleet.router.tls_cert is not None else "HTTP"
    return {
        "httpGet": {"path": path, "port": "http", "scheme": scheme},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _credentials(fleet: Fleet) -> list[Manifest]:
    keys = [_mount("api-keys", _KEYS_DIR)] if fleet.router.api_keys is not None else []
    return keys + ([_mount("tls", _TLS_DIR)] if fleet.router.tls_cert is not None else [])


def _discovery(fleet: Fleet, options: ExportOptions) -> Manifest:
    scheme = "https" if fleet.router.tls_cert is not None else "http"
    command = ["sun_sglang.kubernetes.discovery", "--namespace", "$(POD_NAMESPACE)", "--instance", options.name]
    command += ["--router", f"{scheme}://127.0.0.1:{fleet.router.port}", "--run-dir", RUN_DIR]
    tls = [_mount("tls", _TLS_DIR)] if fleet.router.tls_cert is not None else []
    mounts = [_RUN | {"readOnly": True}, _mount("token", _TOKEN_DIR), *tls]
    key = {"secretKeyRef": {"name": options.worker_key, "key": "key"}}
    env = [
        {"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
        {"name": WORKER_KEY_VARIABLE, "valueFrom": key},
    ]
    return _container("discovery", options, command, mounts, "256Mi") | {"env": env}


def _volumes(fleet: Fleet, options: ExportOptions) -> list[Manifest]:
    token = {
        "projected": {
            "sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            ]
        }
    }
    volumes: list[Manifest] = [
        {"name": "fleet", "configMap": {"name": f"{options.name}-fleet"}},
        {"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}},
        {"name": "token", **token},
    ]
    if fleet.router.api_keys is not None:
        volumes.append({"name": "api-keys", "secret": {"secretName": options.api_keys}})
    if fleet.router.tls_cert is not None:
        volumes.append({"name": "tls", "secret": {"secretName": options.tls}})
    return volumes
