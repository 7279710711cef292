"""Validate manifests offline: Kubernetes' own objects by its schemas, a LeaderWorkerSet by what its API documents."""

from __future__ import annotations

import copy
from typing import Any

import jsonschema
import kubernetes_validate

Manifest = dict[str, Any]

VERSION = "1.36"
_INT_OR_PERCENT = {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": "^[0-9]+%$"}]}


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": properties}


# Written from the API's documentation (LeaderWorkerSet v1), the fields that an export may have: no package has the CRD.
# The pods in it are validated as those of a Deployment.
LEADER_WORKER_SET = _object(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "leaderworkerset.x-k8s.io/v1"},
    kind={"const": "LeaderWorkerSet"},
    metadata={"type": "object", "required": ["name"]},
    spec=_object(
        ("leaderWorkerTemplate",),
        replicas={"type": "integer", "minimum": 0},
        leaderWorkerTemplate=_object(
            ("workerTemplate",),
            size={"type": "integer", "minimum": 1},
            restartPolicy={"enum": ["RecreateGroupOnPodRestart", "RecreateGroupAfterStart", "None"]},
            leaderTemplate={"type": "object"},
            workerTemplate={"type": "object"},
        ),
        rolloutStrategy=_object(
            ("type",),
            type={"enum": ["RollingUpdate"]},
            rollingUpdateConfiguration=_object(maxUnavailable=_INT_OR_PERCENT, maxSurge=_INT_OR_PERCENT),
        ),
    ),
)


def validate(manifest: Manifest) -> None:
    """Raise unless a manifest is valid, without unknown fields.

    Raises:
        jsonschema.ValidationError: names the field.
    """
    if manifest["kind"] != "LeaderWorkerSet":
        # on a copy: it may add to what it validates
        kubernetes_validate.validate(copy.deepcopy(manifest), VERSION, strict=True)
        return
    jsonschema.validate(manifest, LEADER_WORKER_SET)
    group = manifest["spec"]["leaderWorkerTemplate"]
    for template in (group["leaderTemplate"], group["workerTemplate"]):
        validate(_deployment_of(template))


def _deployment_of(template: Manifest) -> Manifest:
    selector = {"matchLabels": template["metadata"]["labels"]}
    spec = {"selector": selector, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "pods"}, "spec": spec}
